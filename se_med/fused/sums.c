/* Sums of weighted network outputs over windows of a volume, their means, and which output is the highest.
 *
 * All go through memory far larger than the caches, so that what counts is how often each number is moved. The outputs of a voxel lie
 * together in the sums, as they do in what networks give: a row of a window is then one run of numbers, read once in its own number
 * format and added, and a class is decided where its outputs are read.
 */
#include <math.h>
#include <stddef.h>

#include "vectors.h"

#ifdef WIDE
#include <immintrin.h>
#endif

#define RUN 512            /* voxels of a row that are handled at once */
#define LANES 16           /* voxels, or numbers of a vector, that are handled together */
#define NEAR 4e-7f         /* relative distance of sums that division may make equal */

typedef struct {
    int64_t outputs, size[3];                       /* of the window */
    int64_t from[4], to[2], totals[2];              /* steps between numbers: output, x, y, z; of sums and totals x and y */
    int32_t format, threads, width, rows;
    float share;
    const void *output;
    const int32_t *voxels;                          /* (outputs * 16): i / outputs */
    const float *weights;                           /* (size), contiguous, or NULL: all 1 */
    float *sums, *total;                            /* total of the weights, or NULL */
} Window;

/* Add voxels whose outputs lie together. */
INLINE void add_voxels(float *sums, const float *weight, const void *output, int64_t at, int64_t count, int64_t outputs, int format) {
    for (int64_t z = 0; z < count; z++)
        for (int64_t c = 0; c < outputs; c++) {
            int64_t i = z * outputs + c;
            sums[i] += weight[z] * (format == BFLOAT16 ? widen(((const uint16_t *)output)[at + i]) : ((const float *)output)[at + i]);
        }
}

#ifdef WIDE
/* The same for LANES voxels at a time, whose numbers are as many vectors as there are outputs. One instruction fetches the weight of each
 * number of a vector from those of the voxels. Vectors that begin with each voxel would overlap, and wait for one another. */
WIDE static int64_t add_voxels_wide(const Window *m, float *sums, const float *weight, int64_t at, int64_t count, int format) {
    int64_t outputs = m->outputs, z = 0;
    for (; z + LANES <= count; z += LANES) {
        __m512 weights = _mm512_loadu_ps(weight + z);
        for (int64_t j = 0; j < outputs; j++) {
            int64_t i = z * outputs + j * LANES;
            __m512 own = _mm512_permutexvar_ps(_mm512_loadu_si512(m->voxels + j * LANES), weights), value;
            if (format == BFLOAT16) {
                __m256i halves = _mm256_loadu_si256((const void *)((const uint16_t *)m->output + at + i));
                value = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
            } else {
                value = _mm512_loadu_ps((const float *)m->output + at + i);
            }
            _mm512_storeu_ps(sums + i, _mm512_fmadd_ps(own, value, _mm512_loadu_ps(sums + i)));
        }
    }
    return z;
}
#endif

INLINE void add_of(const Window *m, int64_t number, int format) {
    int64_t x = number / m->size[1], y = number % m->size[1], outputs = m->outputs;
    int64_t source = x * m->from[1] + y * m->from[2], step = m->from[3], apart = m->from[0];
    float weight[RUN];
    for (int64_t first = 0; first < m->size[2]; first += RUN) {
        int64_t count = m->size[2] - first < RUN ? m->size[2] - first : RUN;
        for (int64_t z = 0; z < count; z++) weight[z] = m->share;
        if (m->weights) {
            const float *given = m->weights + (x * m->size[1] + y) * m->size[2] + first;
            for (int64_t z = 0; z < count; z++) weight[z] *= given[z];
        }
        if (m->total) {
            float *total = m->total + x * m->totals[0] + y * m->totals[1] + first;
            for (int64_t z = 0; z < count; z++) total[z] += weight[z];
        }
        float *sums = m->sums + x * m->to[0] + y * m->to[1] + first * outputs;
        int64_t at = source + first * step;
        if (apart == 1 && step == outputs) {
            int64_t done = 0;
#ifdef WIDE
            if (m->width == 3) done = add_voxels_wide(m, sums, weight, at, count, format);
#endif
            add_voxels(sums + done * outputs, weight + done, m->output, at + done * outputs, count - done, outputs, format);
            continue;
        }
        for (int64_t c = 0; c < outputs; c++) {
            if (format == BFLOAT16) {
                const uint16_t *values = (const uint16_t *)m->output + at + c * apart;
                for (int64_t z = 0; z < count; z++) sums[z * outputs + c] += weight[z] * widen(values[z * step]);
            } else {
                const float *values = (const float *)m->output + at + c * apart;
                for (int64_t z = 0; z < count; z++) sums[z * outputs + c] += weight[z] * values[z * step];
            }
        }
    }
}

KERNEL(add, Window, FORMATS)

/* Windows that lie behind one another along z: of equal size and place along x and y. All are added to a row of sums, which stays in
 * the nearest cache, before the next row. */
void se_med_add_windows(const Window *m, int64_t count) {
    int64_t rows = m->size[0] * m->size[1];
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < rows; number++)
        for (int64_t window = 0; window < count; window++) add(m + window, number);
}

typedef struct {
    int64_t outputs, size[3];
    int64_t from[2], totals[2], to[4];              /* steps: of sums and totals x and y; of what is filled output, x, y, z */
    int32_t threads, width;
    const float *sums, *total;                      /* total of the weights, or NULL: all 1 */
    float *means;                                   /* what is filled: one of both */
    uint8_t *classes;
    float *odd;                                     /* (x * y), of each row 0 where all means are finite */
} Means;

#define ALONE(name, m, number) name##_of(m, number);

/* Fill the means of the outputs, each output by itself, of at most LANES voxels. */
INLINE void means_of_some(const Means *m, const float *sums, const float *weight, float *to, int64_t count, float *odd) {
    for (int64_t c = 0; c < m->outputs; c++)
        for (int64_t z = 0; z < count; z++) {
            float mean = sums[z * m->outputs + c] / weight[z];
            odd[z] += mean * 0.0f;                  /* not a number, unless the mean is finite */
            to[c * m->to[0] + z * m->to[3]] = mean;
        }
}

/* Return the index of the highest sum of a voxel. Only where another is near are they divided by the weight, which may make them equal:
 * division takes longer than all the rest. */
INLINE uint8_t highest_of_one(const float *sums, float weight, int64_t outputs) {
    float best = sums[0], second = -INFINITY;
    int64_t index = 0;
    for (int64_t c = 1; c < outputs; c++) {
        float value = sums[c], beaten = value > best ? best : value;
        second = beaten > second ? beaten : second;
        index = value > best ? c : index;
        best = value > best ? value : best;
    }
    if (!(best - second <= NEAR * fabsf(best))) return (uint8_t)index;
    best = sums[0] / weight;
    index = 0;
    for (int64_t c = 1; c < outputs; c++)
        if (sums[c] / weight > best) best = sums[c] / weight, index = c;
    return (uint8_t)index;
}

/* Fill the classes of a row; return 0 where all sums are finite. */
INLINE float classes_of_row(const Means *m, const float *sums, const float *total, uint8_t *to) {
    float odd = 0.0f;
    for (int64_t z = 0; z < m->size[2]; z++) {
        for (int64_t c = 0; c < m->outputs; c++) odd += sums[z * m->outputs + c] * 0.0f;
        to[z * m->to[3]] = highest_of_one(sums + z * m->outputs, total ? total[z] : 1.0f, m->outputs);
    }
    return odd;
}

#ifdef WIDE
/* The same for up to LANES outputs, those of a voxel as one vector. */
WIDE static float classes_of_row_wide(const Means *m, const float *sums, const float *total, uint8_t *to) {
    __mmask16 all = (__mmask16)((1u << m->outputs) - 1);
    __m512 odd = _mm512_setzero_ps(), lowest = _mm512_set1_ps(-INFINITY);
    for (int64_t z = 0; z < m->size[2]; z++) {
        const float *voxel = sums + z * m->outputs;
        __m512 values = _mm512_mask_loadu_ps(lowest, all, voxel);
        odd = _mm512_mask3_fmadd_ps(values, _mm512_setzero_ps(), odd, all);
        float best = _mm512_reduce_max_ps(values);
        __mmask16 near = _mm512_cmp_ps_mask(values, _mm512_set1_ps(best - NEAR * fabsf(best)), _CMP_GE_OQ);
        uint8_t index = (uint8_t)__builtin_ctz((unsigned)near | 0x10000u);
        to[z * m->to[3]] = near & (near - 1) ? highest_of_one(voxel, total ? total[z] : 1.0f, m->outputs) : index;
    }
    return _mm512_reduce_add_ps(odd);
}
#endif

/* Fill the means of a row; return 0 where all are finite. */
INLINE float means_of_row(const Means *m, const float *sums, const float *total, float *to) {
    float odd[LANES] = {0}, weight[LANES], found = 0.0f;
    for (int64_t first = 0; first < m->size[2]; first += LANES) {
        int64_t count = m->size[2] - first;
        for (int64_t z = 0; z < LANES; z++) weight[z] = total && z < count ? total[first + z] : 1.0f;
        if (count >= LANES) means_of_some(m, sums + first * m->outputs, weight, to + first * m->to[3], LANES, odd);
        else means_of_some(m, sums + first * m->outputs, weight, to + first * m->to[3], count, odd);
    }
    for (int64_t z = 0; z < LANES; z++) found += odd[z];
    return found;
}

INLINE void means_of(const Means *m, int64_t number) {
    int64_t x = number / m->size[1], y = number % m->size[1], at = x * m->to[1] + y * m->to[2];
    const float *sums = m->sums + x * m->from[0] + y * m->from[1];
    const float *total = m->total ? m->total + x * m->totals[0] + y * m->totals[1] : NULL;
    if (!m->classes) {
        m->odd[number] = means_of_row(m, sums, total, m->means + at);
        return;
    }
#ifdef WIDE
    if (m->width == 3 && m->outputs <= LANES) {
        m->odd[number] = classes_of_row_wide(m, sums, total, m->classes + at);
        return;
    }
#endif
    m->odd[number] = classes_of_row(m, sums, total, m->classes + at);
}

KERNEL(means, Means, ALONE)

void se_med_means(const Means *m) {
    int64_t rows = m->size[0] * m->size[1];
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < rows; number++) means(m, number);
}

typedef struct {
    int64_t size[3], from[2];                       /* steps of the values; along the last axis 1 */
    int32_t format, threads, width, index;
    const float *values;                            /* of one output */
    float *best;                                    /* (size), contiguous: the highest so far */
    uint8_t *classes;                               /* likewise: whose it is */
} Highest;

INLINE void highest_of(const Highest *m, int64_t number, int format) {
    (void)format;
    int64_t x = number / m->size[1], y = number % m->size[1], length = m->size[2];
    const float *values = m->values + x * m->from[0] + y * m->from[1];
    float *best = m->best + number * length;
    uint8_t *classes = m->classes + number * length, index = (uint8_t)m->index;
#pragma omp simd
    for (int64_t z = 0; z < length; z++) {
        float value = values[z], before = best[z];
        uint8_t kept = classes[z];
        classes[z] = value > before ? index : kept;
        best[z] = value > before ? value : before;
    }
}

KERNEL(highest, Highest, FORMATS)

void se_med_highest(const Highest *m) {
    int64_t rows = m->size[0] * m->size[1];
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < rows; number++) highest(m, number);
}
