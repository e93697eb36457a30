/* The layers of a channel gate, for one sample: gate = sigmoid(W2 max(0, W1 m + b1) + b2), m the means of y; and back. */
#pragma once

#include "exponential.h"
#include "map.h"

/* pooled, units and gate, from slopes: the mean of y is made of the sums of the activation's slope and of slope times xhat. */
INLINE void excite_of(const Map *m, int64_t sample) {
    int64_t channels = m->channels, hidden = m->hidden;
    const float *first = m->slopes + sample * 2 * channels, *second = first + channels, *weight = m->weight, *bias = m->bias;
    float *pooled = m->pooled + sample * channels, *units = m->units + sample * hidden, *gate = m->gate + sample * channels;
    float share = 1.0f / (float)m->voxels;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) pooled[c] = (weight[c] * second[c] + bias[c] * first[c]) * share;
    for (int64_t h = 0; h < hidden; h++) {
        const float *w1 = m->w1 + h * channels;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < channels; c++) sum += w1[c] * pooled[c];
        sum += m->b1 ? m->b1[h] : 0;
        units[h] = sum > 0 ? sum : 0;
    }
    for (int64_t c = 0; c < channels; c++) {
        const float *w2 = m->w2 + c * hidden;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t h = 0; h < hidden; h++) sum += w2[h] * units[h];
        gate[c] = sum + (m->b2 ? m->b2[c] : 0);
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) gate[c] = 1.0f / (1.0f + exponential(-gate[c]));
}

/* dlogits, dunits and the gradient that reaches every y through the squeeze, from the gradient of the gate. */
INLINE void excite_back_of(const Map *m, int64_t sample) {
    int64_t channels = m->channels, hidden = m->hidden;
    const float *gate = m->gate + sample * channels, *units = m->units + sample * hidden;
    const float *dgate = m->totals + sample * (4 * channels + 1) + 2 * channels;
    float *dlogits = m->dlogits + sample * channels, *dunits = m->dunits + sample * hidden;
    float *squeezed = m->corrections + sample * 3 * channels + 2 * channels, share = 1.0f / (float)m->voxels;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) dlogits[c] = dgate[c] * gate[c] * (1.0f - gate[c]);
    memset(dunits, 0, sizeof(float) * (size_t)hidden);
    for (int64_t c = 0; c < channels; c++) {
        const float *w2 = m->w2 + c * hidden;
        float times = dlogits[c];
#pragma omp simd
        for (int64_t h = 0; h < hidden; h++) dunits[h] += times * w2[h];
    }
    memset(squeezed, 0, sizeof(float) * (size_t)channels);
    for (int64_t h = 0; h < hidden; h++) {
        if (units[h] <= 0) {
            dunits[h] = 0;
            continue;
        }
        const float *w1 = m->w1 + h * channels;
        float times = dunits[h] * share;
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) squeezed[c] += times * w1[c];
    }
}
