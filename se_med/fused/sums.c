/* Sums of weighted network outputs over windows of a volume, and which output is the highest.
 *
 * Both go through memory far larger than the caches, so that what counts is how often each number is moved: an output is read once,
 * in its own number format and memory order, and added; a class map is updated in the pass that compares.
 */
#include "vectors.h"

#define ROW 512            /* voxels along the last axis that are handled at once */

typedef struct {
    int64_t outputs, size[3];                       /* of the window */
    int64_t from[4], to[4], totals[3];              /* steps between numbers: output, x, y, z; of sums and totals z is 1 */
    int32_t format, threads, width, rows;
    float share;
    const void *output;
    const float *weights;                           /* (size), contiguous, or NULL: all 1 */
    float *sums, *total;                            /* total of the weights, or NULL */
} Window;

INLINE void add_of(const Window *m, int64_t number, int format) {
    int64_t x = number / m->size[1], y = number % m->size[1], step = m->from[3];
    int64_t source = x * m->from[1] + y * m->from[2];
    for (int64_t first = 0; first < m->size[2]; first += ROW) {
        int64_t count = m->size[2] - first < ROW ? m->size[2] - first : ROW;
        float weight[ROW];
        for (int64_t z = 0; z < count; z++) weight[z] = m->share;
        if (m->weights) {
            const float *given = m->weights + (x * m->size[1] + y) * m->size[2] + first;
            for (int64_t z = 0; z < count; z++) weight[z] *= given[z];
        }
        if (m->total) {
            float *total = m->total + x * m->totals[0] + y * m->totals[1] + first;
            for (int64_t z = 0; z < count; z++) total[z] += weight[z];
        }
        for (int64_t c = 0; c < m->outputs; c++) {
            float *sums = m->sums + c * m->to[0] + x * m->to[1] + y * m->to[2] + first;
            int64_t at = source + c * m->from[0] + first * step;
            if (format == BFLOAT16) {
                const uint16_t *values = (const uint16_t *)m->output + at;
                if (step == 1) for (int64_t z = 0; z < count; z++) sums[z] += weight[z] * widen(values[z]);
                else for (int64_t z = 0; z < count; z++) sums[z] += weight[z] * widen(values[z * step]);
            } else {
                const float *values = (const float *)m->output + at;
                if (step == 1) for (int64_t z = 0; z < count; z++) sums[z] += weight[z] * values[z];
                else for (int64_t z = 0; z < count; z++) sums[z] += weight[z] * values[z * step];
            }
        }
    }
}


KERNEL(add, Window, FORMATS)

void se_med_add_window(const Window *m) {
    int64_t rows = m->size[0] * m->size[1];
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < rows; number++) add(m, number);
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
