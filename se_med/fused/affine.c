/* Patches turned, scaled and bent: linear or cubic samples of an image and nearest samples of its labels at positions that an affine map
 * and, where there is one, a field of displacements give.
 *
 * A row of the patch is a line through the volume, so its positions are computed where they are needed; what torch does with the same
 * positions as tensors moves each of them between memory and processor many times. A 2D patch is one plane of a volume of one plane.
 */
#include <math.h>

#include "vectors.h"

#define LANES 64           /* voxels of a row that are handled at once */

typedef struct {
    int64_t channels, size[3], source[3];           /* of the patch, and of the volume that it is taken from */
    int32_t width, threads, cubic;
    float matrix[12];                               /* (3, 4), from patch to volume, both counted from their centres */
    const float *image;                             /* (channels, source), contiguous; where cubic, coefficients of splines */
    const uint8_t *label;                           /* (source), contiguous, or NULL */
    const float *field;                             /* (3, size) displacements in voxels of the volume, or NULL */
    float *patch;                                   /* (channels, size) */
    uint8_t *classes;                               /* (size) */
} Affine;

INLINE float inside(float position, float last) {
    position = position > 0.0f ? position : 0.0f;
    return position < last ? position : last;
}

typedef float Four __attribute__((vector_size(16), aligned(4)));

/* Cubic B-splines of the four voxels around a position, which is `t` after the second of them. */
INLINE void splines(float *share, float t) {
    float far = 1.0f - t;
    share[0] = far * far * far / 6.0f;
    share[1] = 2.0f / 3.0f - t * t * (1.0f - 0.5f * t);
    share[2] = 2.0f / 3.0f - far * far * (1.0f - 0.5f * far);
    share[3] = t * t * t / 6.0f;
}

/* Voxels beyond an end are those before it, mirrored at the last one. */
INLINE int32_t mirrored(int32_t index, int32_t end) {
    index = index < 0 ? -index : index;
    index = index > end ? 2 * end - index : index;
    return index < 0 ? 0 : index;
}

/* Splines of `count` voxels of a row, at `position` inside of the volume, whose coefficients `image` has. */
INLINE void cubic_of(const Affine *m, const float *image, float *patch, float position[3][LANES], int64_t count) {
    int32_t length[3] = {(int32_t)m->source[0], (int32_t)m->source[1], (int32_t)m->source[2]};
    int planes = length[0] > 1 ? 4 : 1; /* in one plane all shares of its axis are those of the same voxel, and their sum is 1 */
    for (int64_t k = 0; k < count; k++) {
        int32_t tap[3][4], first[3];
        float share[3][4];
        for (int axis = 0; axis < 3; axis++) {
            int32_t below = (int32_t)position[axis][k];
            splines(share[axis], position[axis][k] - (float)below);
            first[axis] = below - 1;
            for (int each = 0; each < 4; each++) tap[axis][each] = mirrored(first[axis] + each, length[axis] - 1);
        }
        int together = first[2] >= 0 && first[2] + 3 < length[2];
        Four sum = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int i = 0; i < planes; i++) {
            for (int j = 0; j < 4; j++) {
                const float *line = image + ((int64_t)tap[0][i] * length[1] + tap[1][j]) * length[2];
                float weight = planes > 1 ? share[0][i] * share[1][j] : share[1][j];
                Four voxels;
                if (together) voxels = *(const Four *)(line + first[2]);
                else voxels = (Four){line[tap[2][0]], line[tap[2][1]], line[tap[2][2]], line[tap[2][3]]};
                sum += weight * voxels;
            }
        }
        patch[k] = sum[0] * share[2][0] + sum[1] * share[2][1] + sum[2] * share[2][2] + sum[3] * share[2][3];
    }
}

INLINE void row_of(const Affine *m, int64_t number) {
    int64_t height = m->source[1], depth = m->source[2], plane = height * depth;
    float i = (float)(number / m->size[1]) - 0.5f * (float)(m->size[0] - 1);
    float j = (float)(number % m->size[1]) - 0.5f * (float)(m->size[1] - 1);
    float first = -0.5f * (float)(m->size[2] - 1), start[3], step[3], last[3];
    int32_t end[3], next[3], length[3] = {(int32_t)m->source[0], (int32_t)height, (int32_t)depth};
    for (int axis = 0; axis < 3; axis++) {
        const float *row = m->matrix + 4 * axis;
        last[axis] = (float)(length[axis] - 1);
        start[axis] = row[3] + 0.5f * last[axis] + row[0] * i + row[1] * j;
        step[axis] = row[2];
        end[axis] = length[axis] > 1 ? length[axis] - 2 : 0;
    }
    next[0] = length[0] > 1 ? (int32_t)plane : 0;
    next[1] = length[1] > 1 ? (int32_t)depth : 0;
    next[2] = length[2] > 1;
    for (int64_t done = 0; done < m->size[2]; done += LANES) {
        int64_t count = m->size[2] - done < LANES ? m->size[2] - done : LANES, at = number * m->size[2] + done;
        int32_t corner[LANES], nearest[LANES];
        float u[LANES], v[LANES], w[LANES], position[3][LANES];
        for (int axis = 0; axis < 3; axis++) {
            const float *field = m->field ? m->field + axis * m->size[0] * m->size[1] * m->size[2] + at : NULL;
#pragma omp simd
            for (int64_t k = 0; k < count; k++) position[axis][k] = start[axis] + step[axis] * (first + (float)(done + k));
            if (!field) continue;
#pragma omp simd
            for (int64_t k = 0; k < count; k++) position[axis][k] += field[k];
        }
#pragma omp simd
        for (int64_t k = 0; k < count; k++) {
            float x = inside(position[0][k], last[0]);
            float y = inside(position[1][k], last[1]);
            float z = inside(position[2][k], last[2]);
            position[0][k] = x;
            position[1][k] = y;
            position[2][k] = z;
            int32_t a = (int32_t)x, b = (int32_t)y, c = (int32_t)z;
            a = a < end[0] ? a : end[0];
            b = b < end[1] ? b : end[1];
            c = c < end[2] ? c : end[2];
            u[k] = x - (float)a;
            v[k] = y - (float)b;
            w[k] = z - (float)c;
            corner[k] = (a * length[1] + b) * length[2] + c;
            nearest[k] = ((int32_t)rintf(x) * length[1] + (int32_t)rintf(y)) * length[2] + (int32_t)rintf(z);
        }
        for (int64_t k = 0; m->label && k < count; k++) m->classes[at + k] = m->label[nearest[k]];
        for (int64_t channel = 0; channel < m->channels; channel++) {
            const float *image = m->image + channel * m->source[0] * plane;
            float *patch = m->patch + channel * m->size[0] * m->size[1] * m->size[2] + at;
            if (m->cubic) {
                cubic_of(m, image, patch, position, count);
                continue;
            }
#pragma omp simd
            for (int64_t k = 0; k < count; k++) {
                const float *low = image + corner[k], *high = low + next[0];
                float a = low[0] + w[k] * (low[next[2]] - low[0]);
                float b = low[next[1]] + w[k] * (low[next[1] + next[2]] - low[next[1]]);
                float c = high[0] + w[k] * (high[next[2]] - high[0]);
                float d = high[next[1]] + w[k] * (high[next[1] + next[2]] - high[next[1]]);
                a += v[k] * (b - a);
                c += v[k] * (d - c);
                patch[k] = a + u[k] * (c - a);
            }
        }
    }
}

#define ALONE(name, m, number) name##_of(m, number);

KERNEL(row, Affine, ALONE)

/* On one thread: a patch takes less than a millisecond. */
void se_med_sample_affine(const Affine *m) {
    for (int64_t number = 0; number < m->size[0] * m->size[1]; number++) row(m, number);
}

/* Volumes and their outputs may be large, and there is no label. */
void se_med_sample_image(const Affine *m) {
    int64_t rows = m->size[0] * m->size[1];
#pragma omp parallel for num_threads(m->threads) schedule(static)
    for (int64_t number = 0; number < rows; number++) row(m, number);
}
