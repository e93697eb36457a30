/* Number formats, and kernels compiled for several kinds of processors. */
#pragma once

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { BFLOAT16 = 0, FLOAT32 = 1 };

INLINE float widen(uint16_t value) {
    union { uint32_t bits; float number; } both = { (uint32_t)value << 16 };
    return both.number;
}

INLINE uint16_t narrow(float value) { /* to the nearest, ties to even; NaN stays NaN */
    union { float number; uint32_t bits; } both = { value };
    uint32_t rounded = (both.bits + 0x7fffu + ((both.bits >> 16) & 1u)) >> 16;
    return (uint16_t)(value != value ? 0x7fc0u : rounded);
}

/* One number of a map. */
INLINE float value(const void *from, int64_t at, int format) {
    return format == BFLOAT16 ? widen(((const uint16_t *)from)[at]) : ((const float *)from)[at];
}

INLINE void put(void *to, int64_t at, float number, int format) {
    if (format == BFLOAT16) ((uint16_t *)to)[at] = narrow(number);
    else ((float *)to)[at] = number;
}

INLINE void load(float *to, const void *from, int64_t at, int64_t count, int format) {
    if (format == BFLOAT16) {
        const uint16_t *source = (const uint16_t *)from + at;
        for (int64_t c = 0; c < count; c++) to[c] = widen(source[c]);
    } else {
        memcpy(to, (const float *)from + at, (size_t)count * sizeof(float));
    }
}

INLINE void store(void *to, const float *from, int64_t at, int64_t count, int format) {
    if (format == BFLOAT16) {
        uint16_t *target = (uint16_t *)to + at;
        for (int64_t c = 0; c < count; c++) target[c] = narrow(from[c]);
    } else {
        memcpy((float *)to + at, from, (size_t)count * sizeof(float));
    }
}

/* A kernel is compiled for each number format, so that it is decided outside of the loops, and for three kinds of processors, one of
 * which is chosen when it is called. */
#define FORMATS(name, m, number)                                                            \
    if (m->format == BFLOAT16) name##_of(m, number, BFLOAT16);                              \
    else name##_of(m, number, FLOAT32);

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define WIDEST_TARGET target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")
#define WIDE __attribute__((noinline, WIDEST_TARGET))
#define WIDE_INLINE static inline __attribute__((always_inline, WIDEST_TARGET))

/* Sixteen numbers of bfloat16, those of the mask. */
WIDE_INLINE __m512 wide_bfloat16(const uint16_t *from, __mmask16 mask) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

#define MIDDLE __attribute__((noinline, target("avx2,fma")))
#define KERNEL(name, Map, cases)                                                            \
    WIDE static void name##_wide(const Map *m, int64_t number) { cases(name, m, number) }   \
    MIDDLE static void name##_middle(const Map *m, int64_t number) { cases(name, m, number) } \
    static void name##_any(const Map *m, int64_t number) { cases(name, m, number) }         \
    static void name(const Map *m, int64_t number) {                                        \
        if (m->width == 3) name##_wide(m, number);                                          \
        else if (m->width == 2) name##_middle(m, number);                                   \
        else name##_any(m, number);                                                         \
    }
#else
#define KERNEL(name, Map, cases) static void name(const Map *m, int64_t number) { cases(name, m, number) }
#endif
