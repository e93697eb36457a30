/* The passes over a chunk of a map; norm.c says what they compute. */
#pragma once

#include "exponential.h"
#include "fold.h"
#include "map.h"

#define CHUNK 512          /* voxels whose sums are formed together */
#define ROWS 4             /* voxels that one turn of a loop of sums takes */
#define TILE 16            /* voxels whose gates are computed together */

/* Where a sample's chunk lies; voxels are counted through all samples. */
typedef struct { int64_t sample, first, last; } Chunk;

static int64_t chunks_of(const Map *m) { return (m->voxels + CHUNK - 1) / CHUNK; }

static Chunk chunk_at(const Map *m, int64_t number) {
    int64_t chunks = chunks_of(m), first = (number % chunks) * CHUNK, last = first + CHUNK;
    Chunk chunk = { number / chunks, first, last < m->voxels ? last : m->voxels };
    chunk.first += chunk.sample * m->voxels;
    chunk.last += chunk.sample * m->voxels;
    return chunk;
}

#define EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)

/* What the passes over a sample look at. Sums go over ROWS voxels at a time, in functions whose number of rows is constant where
 * they are called: what is added to is read and written once for all of them. */
typedef struct {
    const void *x, *dz;
    void *out;
    const float *mean, *rstd, *gate, *w, *a, *b;    /* a x + b = weight xhat + bias */
    int64_t channels;
    float slope;
} Sample;

INLINE Sample sample_at(const Map *m, int64_t sample, float *a, float *b) {
    const int64_t at = sample * m->channels;
    fold(m->channels, m->weight, m->bias, m->mean + at, m->rstd + at, a, b);
    return (Sample){ m->x, m->dz, m->out, m->mean + at, m->rstd + at, m->gate + at, m->w, a, b, m->channels, m->slope };
}

INLINE float activated(float u, float slope) { return u > 0 ? u : slope * u; }

INLINE void moment_rows(const void *x, const float *origin, int64_t channels, int64_t v, int rows, float *first, float *second, int format) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        float one = 0, two = 0;
        EACH_ROW {
            float away = value(x, (v + r) * channels + c, format) - origin[c];
            one += away;
            two += away * away;
        }
        first[c] += one;
        second[c] += two;
    }
}

/* Sums of x - origin and of its square, where the origin is the sample's first voxel: the variance then loses no digits. */
INLINE void moments_of(const Map *m, int64_t number, int format) {
    const Chunk at = chunk_at(m, number);
    const int64_t channels = m->channels;
    float origin[WIDEST], *first = m->partial + number * 2 * channels, *second = first + channels;
    load(origin, m->x, at.sample * m->voxels * channels, channels, format);
    memset(first, 0, sizeof(float) * (size_t)(2 * channels));
    int64_t v = at.first;
    for (; v + ROWS <= at.last; v += ROWS) moment_rows(m->x, origin, channels, v, ROWS, first, second, format);
    for (; v < at.last; v++) moment_rows(m->x, origin, channels, v, 1, first, second, format);
}

INLINE void slope_rows(Sample k, int64_t v, int rows, float *first, float *second, int format) {
#pragma omp simd
    for (int64_t c = 0; c < k.channels; c++) {
        float one = 0, two = 0;
        EACH_ROW {
            float x = value(k.x, (v + r) * k.channels + c, format), times = k.a[c] * x + k.b[c] > 0 ? 1.0f : k.slope;
            one += times;
            two += times * (x - k.mean[c]);
        }
        first[c] += one;
        second[c] += two;
    }
}

/* Sums of the activation's slope and of slope times x - mean: what the mean of y is made of, and its gradient. */
INLINE void slopes_of(const Map *m, int64_t number, int format) {
    const Chunk at = chunk_at(m, number);
    float a[WIDEST], b[WIDEST], *first = m->partial + number * 2 * m->channels, *second = first + m->channels;
    const Sample k = sample_at(m, at.sample, a, b);
    memset(first, 0, sizeof(float) * (size_t)(2 * m->channels));
    int64_t v = at.first;
    for (; v + ROWS <= at.last; v += ROWS) slope_rows(k, v, ROWS, first, second, format);
    for (; v < at.last; v++) slope_rows(k, v, 1, first, second, format);
}

/* s of up to TILE voxels from v. */
INLINE void voxel_gates(Sample k, int64_t v, int64_t count, float *to, int format) {
    float s[TILE] = { 0 };
    for (int64_t t = 0; t < count; t++) {
        float logit = 0;
#pragma omp simd reduction(+ : logit)
        for (int64_t c = 0; c < k.channels; c++)
            logit += k.w[c] * activated(k.a[c] * value(k.x, (v + t) * k.channels + c, format) + k.b[c], k.slope);
        s[t] = logit + k.w[k.channels];
    }
#pragma omp simd
    for (int64_t t = 0; t < TILE; t++) s[t] = 1.0f / (1.0f + exponential(-s[t]));
    memcpy(to + v, s, sizeof(float) * (size_t)count);
}

/* The factor on y at one voxel and channel, and the share of the channel gate in its gradient (half where both are equal). */
INLINE float factor(int mode, float y, float gate, float s, float *share) {
    if (mode == SPATIAL) return *share = 0, s;
    if (mode == SUM) return *share = 1, gate + s;
    if (mode == LARGER) {
        float apart = y * (gate - s);
        *share = apart > 0 ? 1.0f : apart < 0 ? 0.0f : 0.5f;
        return *share * gate + (1 - *share) * s;
    }
    return *share = 1, gate;
}

INLINE void forward_rows(Sample k, int64_t v, int rows, const float *gates, int format, int mode) {
    float s[ROWS] = { 0 };
    if (mode >= SPATIAL) memcpy(s, gates + v, sizeof(float) * (size_t)rows);
#pragma omp simd
    for (int64_t c = 0; c < k.channels; c++) {
        EACH_ROW {
            const int64_t at = (v + r) * k.channels + c;
            float y = activated(k.a[c] * value(k.x, at, format) + k.b[c], k.slope);
            if (mode == CHANNEL) y *= k.gate[c];
            if (mode == SPATIAL) y *= s[r];
            if (mode == LARGER) y *= (y > 0) == (k.gate[c] > s[r]) ? k.gate[c] : s[r];
            if (mode == SUM) y *= k.gate[c] + s[r];
            put(k.out, at, y, format);
        }
    }
}

INLINE void forward_of(const Map *m, int64_t number, int format, int mode) {
    const Chunk at = chunk_at(m, number);
    float a[WIDEST], b[WIDEST];
    const Sample k = sample_at(m, at.sample, a, b);
    for (int64_t v = at.first, end; v < at.last; v = end) {
        end = v + TILE < at.last ? v + TILE : at.last;
        if (mode >= SPATIAL) voxel_gates(k, v, end - v, m->s, format);
        for (; v + ROWS <= end; v += ROWS) forward_rows(k, v, ROWS, m->s, format, mode);
        for (; v < end; v++) forward_rows(k, v, 1, m->s, format, mode);
    }
}

/* ds of up to TILE voxels from v; returns their sum. */
INLINE float voxel_gradients(Sample k, int64_t v, int64_t count, const float *gates, float *to, int format, int mode) {
    float sum = 0;
    for (int64_t t = v; t < v + count; t++) {
        const float s = gates[t];
        float ds = 0;
#pragma omp simd reduction(+ : ds)
        for (int64_t c = 0; c < k.channels; c++) {
            float y = activated(k.a[c] * value(k.x, t * k.channels + c, format) + k.b[c], k.slope), share;
            factor(mode, y, k.gate[c], s, &share);
            ds += (mode == SUM ? 1.0f : 1.0f - share) * value(k.dz, t * k.channels + c, format) * y;
        }
        to[t] = ds *= s * (1 - s);
        sum += ds;
    }
    return sum;
}

INLINE void sum_rows(Sample k, int64_t v, int rows, const float *gates, const float *gradients, float *du, int format, int mode) {
    float s[ROWS] = { 0 }, ds[ROWS] = { 0 }, *duxhat = du + k.channels, *dgate = duxhat + k.channels, *dw = dgate + k.channels;
    if (mode >= SPATIAL) {
        memcpy(s, gates + v, sizeof(float) * (size_t)rows);
        memcpy(ds, gradients + v, sizeof(float) * (size_t)rows);
    }
#pragma omp simd
    for (int64_t c = 0; c < k.channels; c++) {
        float one = 0, two = 0, three = 0, four = 0;
        EACH_ROW {
            float x = value(k.x, (v + r) * k.channels + c, format), d = value(k.dz, (v + r) * k.channels + c, format);
            float u = k.a[c] * x + k.b[c], times = u > 0 ? 1.0f : k.slope;
            if (mode >= SPATIAL) {
                float y = times * u, share, by = factor(mode, y, k.gate[c], s[r], &share);
                three += share * d * y;
                four += ds[r] * y;
                d = d * by + ds[r] * k.w[c];
            }
            one += times * d;
            two += times * d * (x - k.mean[c]);
        }
        du[c] += one;
        duxhat[c] += two;
        if (mode >= SPATIAL) dgate[c] += three;
        if (mode >= SPATIAL) dw[c] += four;
    }
}

/* Rows of partial sums: du, du (x - mean), d gate, d w, and one number, d w0; what a mode does not have is 0. With channel gates
 * alone du lacks the gate, from which d gate follows without a sum of its own: see finish_sums. */
INLINE void sums_of(const Map *m, int64_t number, int format, int mode) {
    const Chunk at = chunk_at(m, number);
    float a[WIDEST], b[WIDEST], *du = m->partial + number * (4 * m->channels + 1), dw0 = 0;
    const Sample k = sample_at(m, at.sample, a, b);
    memset(du, 0, sizeof(float) * (size_t)(4 * m->channels));
    for (int64_t v = at.first, end; v < at.last; v = end) {
        end = v + TILE < at.last ? v + TILE : at.last;
        if (mode >= SPATIAL) dw0 += voxel_gradients(k, v, end - v, m->s, m->ds, format, mode);
        for (; v + ROWS <= end; v += ROWS) sum_rows(k, v, ROWS, m->s, m->ds, du, format, mode);
        for (; v < end; v++) sum_rows(k, v, 1, m->s, m->ds, du, format, mode);
    }
    du[4 * m->channels] = dw0;
}

INLINE void backward_rows(Sample k, int64_t v, int rows, const float *gates, const float *gradients, const float *mean_du, int format,
                          int mode) {
    const float *mean_duxhat = mean_du + k.channels, *squeezed = mean_duxhat + k.channels;
    float s[ROWS] = { 0 }, ds[ROWS] = { 0 };
    if (mode >= SPATIAL) {
        memcpy(s, gates + v, sizeof(float) * (size_t)rows);
        memcpy(ds, gradients + v, sizeof(float) * (size_t)rows);
    }
#pragma omp simd
    for (int64_t c = 0; c < k.channels; c++) {
        EACH_ROW {
            const int64_t at = (v + r) * k.channels + c;
            float x = value(k.x, at, format), u = k.a[c] * x + k.b[c], times = u > 0 ? 1.0f : k.slope, share;
            float d = value(k.dz, at, format) * factor(mode, times * u, k.gate[c], s[r], &share) + squeezed[c];
            if (mode >= SPATIAL) d += ds[r] * k.w[c];
            put(k.out, at, k.a[c] * (times * d - mean_du[c] - (x - k.mean[c]) * k.rstd[c] * mean_duxhat[c]), format);
        }
    }
}

/* d loss / d x. */
INLINE void backward_of(const Map *m, int64_t number, int format, int mode) {
    const Chunk at = chunk_at(m, number);
    float a[WIDEST], b[WIDEST];
    const Sample k = sample_at(m, at.sample, a, b);
    const float *row = m->corrections + at.sample * 3 * m->channels;
    int64_t v = at.first;
    for (; v + ROWS <= at.last; v += ROWS) backward_rows(k, v, ROWS, m->s, m->ds, row, format, mode);
    for (; v < at.last; v++) backward_rows(k, v, 1, m->s, m->ds, row, format, mode);
}
