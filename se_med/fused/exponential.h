/* The exponential function. */
#pragma once

#include "vectors.h"

/* exp(t) to within two units of the last place, in a form that compilers turn into vectors (Cephes, Moshier 1989). */
INLINE float exponential(float t) {
    t = t < -87.0f ? -87.0f : t > 87.0f ? 87.0f : t;
    float n = (t * 1.44269504f + 12582912.0f) - 12582912.0f, r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    float e = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r;
    union { int32_t bits; float number; } power = { ((int32_t)n + 127) << 23 };
    return ((e + 5.0000001201e-1f) * r * r + r + 1.0f) * power.number;
}
