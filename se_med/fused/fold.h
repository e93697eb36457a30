/* An instance norm and its statistics in one: weight xhat + bias = a x + b. */
#pragma once

#include "vectors.h"

INLINE void fold(int64_t channels, const float *weight, const float *bias, const float *mean, const float *rstd, float *a, float *b) {
    for (int64_t c = 0; c < channels; c++) {
        a[c] = weight[c] * rstd[c];
        b[c] = bias[c] - a[c] * mean[c];
    }
}
