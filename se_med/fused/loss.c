/* Dice and cross-entropy of logits against class indices, and their gradient, in one pass over the logits each way.
 *
 * Logits are (samples, classes, voxels). With p the softmax, t the one-hot reference and n all voxels of the batch, the forward pass
 * gives per class the sums of p t, p and t, and the sum of -log p at the reference. From these the caller makes the loss, and for
 * the way back per class the numbers a and b of
 *
 *     d loss / d p[c] = a[c] t[c] + b[c],    d loss / d logit[k] = p[k] (g[k] - sum_c p[c] g[c]) + share (p[k] - t[k])
 *
 * with g that derivative and share the weight of a voxel's cross-entropy. Chunks as in norm.c: no sum depends on the threads.
 */
#include <math.h>

#include "vectors.h"

#define CHUNK 4096
#define BLOCK 128
#define MOST 64            /* classes */

typedef struct {
    int64_t samples, classes, voxels;
    int32_t format, threads, width;
    float share, scale;                             /* scale: gradient of the loss */
    const void *logits;                             /* (samples, classes, voxels) */
    const int64_t *target;                          /* (samples, voxels) */
    float *p;                                       /* (samples, classes, voxels) */
    float *partial;                                 /* (chunks, 3 classes + 1) */
    const float *a, *b;                             /* (classes) */
    void *out;                                      /* (samples, classes, voxels): d loss / d logits */
} Batch;

/* e to the x for x <= 0, to float32's precision (Cephes, S. Moshier); 0 below -87. */
INLINE float exponential(float x) {
    float below = x < -87.0f ? -87.0f : x;
    float whole = __builtin_floorf(below * 1.44269504f + 0.5f);
    float rest = below - whole * 0.693359375f + whole * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * rest + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * rest * rest + rest + 1.0f;
    union { int32_t bits; float number; } power = { ((int32_t)whole + 127) << 23 };
    return x < -87.0f ? 0.0f : x != x ? x : y * power.number;
}

INLINE void dice_sums_of(const Batch *m, int64_t number, int format) {
    int64_t chunks = (m->voxels + CHUNK - 1) / CHUNK, classes = m->classes, voxels = m->voxels;
    int64_t sample = number / chunks, first = (number % chunks) * CHUNK;
    int64_t last = first + CHUNK < voxels ? first + CHUNK : voxels;
    float rows[MOST][BLOCK], highest[BLOCK], total[BLOCK], at[BLOCK];
    double sums[3 * MOST + 1];
    for (int64_t c = 0; c <= 3 * classes; c++) sums[c] = 0;
    for (int64_t start = first; start < last; start += BLOCK) {
        int64_t count = start + BLOCK < last ? BLOCK : last - start;
        const int64_t *target = m->target + sample * voxels + start;
        int32_t reference[BLOCK];
        for (int64_t v = 0; v < count; v++) reference[v] = (int32_t)target[v];
        for (int64_t c = 0; c < classes; c++) load(rows[c], m->logits, (sample * classes + c) * voxels + start, count, format);
        for (int64_t v = 0; v < count; v++) highest[v] = rows[0][v];
        for (int64_t c = 1; c < classes; c++)
            for (int64_t v = 0; v < count; v++) highest[v] = rows[c][v] > highest[v] ? rows[c][v] : highest[v];
        for (int64_t v = 0; v < count; v++) total[v] = at[v] = 0;
        for (int64_t c = 0; c < classes; c++)
#pragma omp simd
            for (int64_t v = 0; v < count; v++) {
                float away = rows[c][v] - highest[v];
                at[v] += reference[v] == c ? away : 0.0f;
                rows[c][v] = exponential(away);
                total[v] += rows[c][v];
            }
        double entropy = 0;
        for (int64_t v = 0; v < count; v += 8) { /* one logarithm of a product for several voxels */
            int64_t end = v + 8 < count ? v + 8 : count;
            double product = 1;
            for (int64_t i = v; i < end; i++) product *= total[i], entropy -= at[i];
            entropy += log(product);
        }
        sums[3 * classes] += entropy;
        for (int64_t v = 0; v < count; v++) total[v] = 1.0f / total[v];
        for (int64_t c = 0; c < classes; c++) {
            float both = 0, mine = 0, theirs = 0;
#pragma omp simd reduction(+ : both, mine, theirs)
            for (int64_t v = 0; v < count; v++) {
                float p = rows[c][v] * total[v], here = reference[v] == c ? 1.0f : 0.0f;
                rows[c][v] = p;
                both += p * here;
                mine += p;
                theirs += here;
            }
            sums[3 * c] += both;
            sums[3 * c + 1] += mine;
            sums[3 * c + 2] += theirs;
            memcpy(m->p + (sample * classes + c) * voxels + start, rows[c], sizeof(float) * (size_t)count);
        }
    }
    float *row = m->partial + number * (3 * classes + 1);
    for (int64_t c = 0; c <= 3 * classes; c++) row[c] = (float)sums[c];
}

INLINE void dice_gradient_of(const Batch *m, int64_t number, int format) {
    int64_t chunks = (m->voxels + CHUNK - 1) / CHUNK, classes = m->classes, voxels = m->voxels;
    int64_t sample = number / chunks, first = (number % chunks) * CHUNK;
    int64_t last = first + CHUNK < voxels ? first + CHUNK : voxels;
    float inner[BLOCK], row[BLOCK];
    const float share = m->share, scale = m->scale;
    for (int64_t start = first; start < last; start += BLOCK) {
        int64_t count = start + BLOCK < last ? BLOCK : last - start;
        const int64_t *target = m->target + sample * voxels + start;
        int32_t reference[BLOCK];
        for (int64_t v = 0; v < count; v++) reference[v] = (int32_t)target[v], inner[v] = 0;
        for (int64_t c = 0; c < classes; c++) {
            const float *p = m->p + (sample * classes + c) * voxels + start;
            const float a = m->a[c], b = m->b[c];
#pragma omp simd
            for (int64_t v = 0; v < count; v++) inner[v] += p[v] * (reference[v] == c ? a + b : b);
        }
        for (int64_t c = 0; c < classes; c++) {
            const float *p = m->p + (sample * classes + c) * voxels + start;
            const float a = m->a[c], b = m->b[c];
#pragma omp simd
            for (int64_t v = 0; v < count; v++) {
                float here = reference[v] == c ? 1.0f : 0.0f;
                row[v] = scale * (p[v] * (a * here + b - inner[v] + share) - share * here);
            }
            store(m->out, row, (sample * classes + c) * voxels + start, count, format);
        }
    }
}

KERNEL(dice_sums, Batch, FORMATS)
KERNEL(dice_gradient, Batch, FORMATS)

int64_t se_med_most_classes(void) { return MOST; }
int64_t se_med_loss_chunks(int64_t voxels) { return (voxels + CHUNK - 1) / CHUNK; }

/* total: (3 classes + 1) float64: sums of p t, p and t of each class, then of -log p at the reference. */
void se_med_dice_sums(const Batch *m, double *total) {
    int64_t chunks = m->samples * se_med_loss_chunks(m->voxels), width = 3 * m->classes + 1;
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < chunks; number++) dice_sums(m, number);
    for (int64_t c = 0; c < width; c++) {
        total[c] = 0;
        for (int64_t number = 0; number < chunks; number++) total[c] += m->partial[number * width + c];
    }
}

/* out: d loss / d logits. */
void se_med_dice_gradient(const Batch *m) {
    int64_t chunks = m->samples * se_med_loss_chunks(m->voxels);
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < chunks; number++) dice_gradient(m, number);
}
