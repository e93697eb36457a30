/* Instance norm, activation and the gate of Project & Excite in one pass over channels-last memory; see norm.c for norm and
 * activation, and for what holds of sums.
 *
 * The voxels of a sample are (X, Y, Z); a 2D map has Z = 1. A line is the mean of y over all axes but one: there are X + Y + Z of
 * them, X first. The first layer is applied to the lines by the caller: p, (X + Y + Z, hidden). Here, for a voxel (i, j, k),
 *
 *     h = max(0, p[i] + p[X + j] + p[X + Y + k]),   g[c] = sigmoid(sum_h w[h, c] h + b[c]),   z = g y.
 *
 * Only x and its two statistics are needed to go back.
 */
#include <math.h>

#include "exponential.h"
#include "fold.h"
#include "vectors.h"

#define WIDEST 1024        /* channels of the widest map, and units of the widest hidden layer */
#define ROWS 4             /* voxels that one turn of a loop takes */
#define EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)

typedef struct {
    int64_t samples, extent[3], channels, hidden;
    int32_t format, threads, width;                 /* width: of the vectors, see se_med_width */
    float slope;
    const void *x;                                  /* (samples, X, Y, Z, channels) */
    const float *mean, *rstd;                       /* (samples, channels) */
    const float *weight, *bias;                     /* (channels), of the norm */
    const float *p;                                 /* (samples, X + Y + Z, hidden) */
    const float *w, *b;                             /* (hidden, channels) and (channels): the second layer */
    const float *corrections;                       /* (samples, 2, channels): means of du and du xhat */
    const float *squeezed;                          /* (samples, X + Y + Z, channels): gradient that reaches every y of a line */
    const void *dz;                                 /* like x */
    void *out;                                      /* like x: z, or d loss / d x */
    float *partial;                                 /* sums of each slab; see the functions */
} Lines;

/* A slab is all voxels of one sample with the same i: number = sample X + i. */
INLINE int64_t lines_of(const Lines *m) { return m->extent[0] + m->extent[1] + m->extent[2]; }

/* What the hidden units of all voxels (i, j, .) have in common: p[i] + p[X + j]. */
INLINE void common_at(const Lines *m, int64_t sample, int64_t i, int64_t j, float *common) {
    const float *p = m->p + sample * lines_of(m) * m->hidden, *pi = p + i * m->hidden, *pj = p + (m->extent[0] + j) * m->hidden;
    for (int64_t n = 0; n < m->hidden; n++) common[n] = pi[n] + pj[n];
}

/* Logits of ROWS voxels, g (ROWS, channels), from their hidden units, h (ROWS, hidden). */
INLINE void logits_of(int64_t channels, int64_t hidden, const float *w, const float *b, const float *h, float *g) {
    for (int r = 0; r < ROWS; r++) memcpy(g + r * channels, b, sizeof(float) * (size_t)channels);
    for (int64_t n = 0; n < hidden; n++)
        for (int r = 0; r < ROWS; r++) {
            const float times = h[r * hidden + n];
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) g[r * channels + c] += times * w[n * channels + c];
        }
}

#if defined(__x86_64__) && defined(__GNUC__)
#define TWICE _Pragma("GCC unroll 2") for (int t = 0; t < 2; t++)
#define EVERY _Pragma("GCC unroll 4") for (int r = 0; r < ROWS; r++)

/* sigmoid(v) to within four units of the last place, by an estimate of the reciprocal and a step of Newton's. */
WIDE_INLINE __m512 sigmoid_wide(__m512 v) {
    const __m512 t = _mm512_min_ps(_mm512_set1_ps(87.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), v)); /* NaN stays */
    const __m512 away = _mm512_sub_ps(_mm512_setzero_ps(), t);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(away, _mm512_set1_ps(1.44269504f)), 8 /* to nearest, silently */);
    const __m512 rough = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), away);
    const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), rough);
    __m512 e = _mm512_set1_ps(1.9875691500e-4f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.3981999507e-3f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(8.3334519073e-3f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(4.1665795894e-2f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.6666665459e-1f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(5.0000001201e-1f));
    e = _mm512_fmadd_ps(_mm512_mul_ps(e, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    const __m512 below = _mm512_add_ps(_mm512_scalef_ps(e, n), _mm512_set1_ps(1.0f)), guess = _mm512_rcp14_ps(below);
    return _mm512_mul_ps(guess, _mm512_fnmadd_ps(below, guess, _mm512_set1_ps(2.0f)));
}

/* The gates with 32 channels of all voxels in registers, instead of sums that are written to memory and read again at each unit. */
WIDE static void gates_wide(int64_t channels, int64_t hidden, const float *w, const float *b, const float *h, float *g) {
    for (int64_t c = 0; c < channels; c += 32) {
        const int64_t left = channels - c;
        const __mmask16 masks[2] = { left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1),
                                     left >= 32 ? 0xffff : left > 16 ? (__mmask16)((1u << (left - 16)) - 1) : 0 };
        __m512 sums[ROWS][2];
        TWICE {
            const __m512 start = _mm512_maskz_loadu_ps(masks[t], b + c + 16 * t);
            EVERY sums[r][t] = start;
        }
        for (int64_t n = 0; n < hidden; n++) {
            __m512 weights[2];
            TWICE weights[t] = _mm512_maskz_loadu_ps(masks[t], w + n * channels + c + 16 * t);
            EVERY {
                const __m512 times = _mm512_set1_ps(h[r * hidden + n]);
                TWICE sums[r][t] = _mm512_fmadd_ps(times, weights[t], sums[r][t]);
            }
        }
        EVERY { TWICE _mm512_mask_storeu_ps(g + r * channels + c + 16 * t, masks[t], sigmoid_wide(sums[r][t])); }
    }
}
#endif

/* Hidden units h (ROWS, hidden) and gates g (ROWS, channels) of up to ROWS voxels from k on. */
INLINE void gates_at(const Lines *m, int64_t sample, const float *common, int64_t k, int64_t rows, float *h, float *g) {
    const int64_t all = ROWS * m->channels, hidden = m->hidden;
    const float *pk = m->p + (sample * lines_of(m) + m->extent[0] + m->extent[1] + k) * hidden;
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
        for (int64_t n = 0; n < hidden; n++) {
            float t = common[n] + pk[r * hidden + n];
            h[r * hidden + n] = t > 0 ? t : 0;
        }
    for (int64_t n = rows * hidden; n < ROWS * hidden; n++) h[n] = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    if (m->width == 3) {
        gates_wide(m->channels, m->hidden, m->w, m->b, h, g);
        return;
    }
#endif
    logits_of(m->channels, m->hidden, m->w, m->b, h, g);
#pragma omp simd
    for (int64_t c = 0; c < all; c++) g[c] = 1.0f / (1.0f + exponential(-g[c]));
}

/* Add to the sums of a slab `rows` voxels of its line j from number `at` on, a constant where this is called. */
INLINE void slope_rows(const Lines *m, int64_t at, int rows, const float *a, const float *b, const float *mean, float *of_j,
                       float *of_k, int format) {
    const int64_t channels = m->channels;
    const float slope = m->slope;
    const void *x = m->x;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        float one = 0, two = 0;
        EACH_ROW {
            float at_v = value(x, (at + r) * channels + c, format), first = a[c] * at_v + b[c] > 0 ? 1.0f : slope;
            float second = first * (at_v - mean[c]);
            of_k[2 * r * channels + c] += first;
            of_k[(2 * r + 1) * channels + c] += second;
            one += first;
            two += second;
        }
        of_j[c] += one;
        of_j[channels + c] += two;
    }
}

/* Rows (1 + Y + Z, 2, channels): sums over the slab, and over its part of each line, of the activation's slope and of slope times
 * xhat. The means of y over lines are made of them, and what a gradient of such a mean adds to the gradient of the norm. */
INLINE void line_slopes_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0];
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    float a[WIDEST], b[WIDEST];
    float *row = m->partial + number * (1 + Y + Z) * 2 * channels;
    memset(row, 0, sizeof(float) * (size_t)((1 + Y + Z) * 2 * channels));
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++) {
        float *of_j = row + (1 + j) * 2 * channels, *of_k = row + (1 + Y) * 2 * channels;
        int64_t at = (number * Y + j) * Z, k = 0;
        for (; k + ROWS <= Z; k += ROWS) slope_rows(m, at + k, ROWS, a, b, mean, of_j, of_k + k * 2 * channels, format);
        for (; k < Z; k++) slope_rows(m, at + k, 1, a, b, mean, of_j, of_k + k * 2 * channels, format);
        for (int64_t c = 0; c < 2 * channels; c++) row[c] += of_j[c];
    }
    for (int64_t line = 0; line < 1 + Y + Z; line++)
        for (int64_t c = 0; c < channels; c++) row[(2 * line + 1) * channels + c] *= rstd[c];
}

/* Add to sums of y, (1 + Y + Z, channels) of a slab, as slope_rows does. */
INLINE void mean_rows(const Lines *m, int64_t at, int rows, const float *a, const float *b, float *of_j, float *of_k, int format) {
    const int64_t channels = m->channels;
    const float slope = m->slope;
    const void *x = m->x;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        float one = 0;
        EACH_ROW {
            float u = a[c] * value(x, (at + r) * channels + c, format) + b[c], y = u > 0 ? u : slope * u;
            of_k[r * channels + c] += y;
            one += y;
        }
        of_j[c] += one;
    }
}

/* Rows (1 + Y + Z, channels): sums of y over the slab, and over its part of each line; all that is needed where there is no way back. */
INLINE void line_means_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0];
    float a[WIDEST], b[WIDEST], *row = m->partial + number * (1 + Y + Z) * channels;
    memset(row, 0, sizeof(float) * (size_t)((1 + Y + Z) * channels));
    fold(channels, m->weight, m->bias, m->mean + sample * channels, m->rstd + sample * channels, a, b);
    for (int64_t j = 0; j < Y; j++) {
        float *of_j = row + (1 + j) * channels, *of_k = row + (1 + Y) * channels;
        int64_t at = (number * Y + j) * Z, k = 0;
        for (; k + ROWS <= Z; k += ROWS) mean_rows(m, at + k, ROWS, a, b, of_j, of_k + k * channels, format);
        for (; k < Z; k++) mean_rows(m, at + k, 1, a, b, of_j, of_k + k * channels, format);
        for (int64_t c = 0; c < channels; c++) row[c] += of_j[c];
    }
}

INLINE void gated_rows(const Lines *m, int64_t at, int rows, const float *a, const float *b, const float *g, int format) {
    const int64_t channels = m->channels;
    const float slope = m->slope;
    const void *x = m->x;
    void *out = m->out;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        EACH_ROW {
            float u = a[c] * value(x, (at + r) * channels + c, format) + b[c];
            put(out, (at + r) * channels + c, g[r * channels + c] * (u > 0 ? u : slope * u), format);
        }
    }
}

INLINE void line_forward_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0], i = number % m->extent[0];
    float a[WIDEST], b[WIDEST], common[WIDEST], h[ROWS * WIDEST], g[ROWS * WIDEST];
    fold(channels, m->weight, m->bias, m->mean + sample * channels, m->rstd + sample * channels, a, b);
    for (int64_t j = 0; j < Y; j++) {
        const int64_t first = (number * Y + j) * Z;
        common_at(m, sample, i, j, common);
        for (int64_t k = 0; k < Z; k += ROWS) {
            const int64_t rows = k + ROWS < Z ? ROWS : Z - k;
            gates_at(m, sample, common, k, rows, h, g);
            if (rows == ROWS) gated_rows(m, first + k, ROWS, a, b, g, format);
            else for (int64_t r = 0; r < rows; r++) gated_rows(m, first + k + r, 1, a, b, g + r * channels, format);
        }
    }
}

/* Rows: du, du xhat, d b, each (channels); d w, (hidden, channels); d p of the slab's part of each line, (1 + Y + Z, hidden). du
 * holds what comes through y itself, not what comes through the lines. */
INLINE void line_sums_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, hidden = m->hidden, Y = m->extent[1], Z = m->extent[2];
    int64_t sample = number / m->extent[0], i = number % m->extent[0], wide = (3 + hidden) * channels + (1 + Y + Z) * hidden;
    const float slope = m->slope;
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    float x[WIDEST], d[WIDEST], a[WIDEST], b[WIDEST], common[WIDEST], hs[ROWS * WIDEST], gs[ROWS * WIDEST], dlogit[WIDEST];
    float *du = m->partial + number * wide, *duxhat = du + channels, *db = duxhat + channels, *dw = db + channels;
    float *of_i = dw + hidden * channels;
    memset(du, 0, sizeof(float) * (size_t)wide);
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++) {
        common_at(m, sample, i, j, common);
        for (int64_t k = 0; k < Z; k++) {
            int64_t at = ((number * Y + j) * Z + k) * channels;
            float *of_j = of_i + (1 + j) * hidden, *of_k = of_i + (1 + Y + k) * hidden;
            const float *h = hs + k % ROWS * m->hidden, *g = gs + k % ROWS * channels;
            if (k % ROWS == 0) gates_at(m, sample, common, k, k + ROWS < Z ? ROWS : Z - k, hs, gs);
            load(x, m->x, at, channels, format);
            load(d, m->dz, at, channels, format);
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float u = a[c] * x[c] + b[c], times = u > 0 ? 1.0f : slope, inner = times * d[c] * g[c];
                dlogit[c] = d[c] * times * u * g[c] * (1.0f - g[c]);
                db[c] += dlogit[c];
                du[c] += inner;
                duxhat[c] += inner * (x[c] - mean[c]) * rstd[c];
            }
            for (int64_t n = 0; n < hidden; n++) {
                if (h[n] <= 0) continue;
                const float *w = m->w + n * channels;
                float *dwn = dw + n * channels, times = h[n], dh = 0;
#pragma omp simd reduction(+ : dh)
                for (int64_t c = 0; c < channels; c++) {
                    dwn[c] += times * dlogit[c];
                    dh += w[c] * dlogit[c];
                }
                of_i[n] += dh;
                of_j[n] += dh;
                of_k[n] += dh;
            }
        }
    }
}

INLINE void line_backward_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0], i = number % m->extent[0];
    const float slope = m->slope;
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    const float *mean_du = m->corrections + sample * 2 * channels, *mean_duxhat = mean_du + channels;
    const float *squeezed = m->squeezed + sample * lines_of(m) * channels, *from_i = squeezed + i * channels;
    float x[WIDEST], d[WIDEST], a[WIDEST], b[WIDEST], common[WIDEST], hs[ROWS * WIDEST], gs[ROWS * WIDEST];
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++) {
        common_at(m, sample, i, j, common);
        for (int64_t k = 0; k < Z; k++) {
            int64_t at = ((number * Y + j) * Z + k) * channels;
            const float *from_j = squeezed + (m->extent[0] + j) * channels;
            const float *from_k = squeezed + (m->extent[0] + Y + k) * channels;
            const float *g = gs + k % ROWS * channels;
            if (k % ROWS == 0) gates_at(m, sample, common, k, k + ROWS < Z ? ROWS : Z - k, hs, gs);
            load(x, m->x, at, channels, format);
            load(d, m->dz, at, channels, format);
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float dy = d[c] * g[c] + from_i[c] + from_j[c] + from_k[c];
                float inner = (a[c] * x[c] + b[c] > 0 ? 1.0f : slope) * dy;
                d[c] = a[c] * (inner - mean_du[c] - (x[c] - mean[c]) * rstd[c] * mean_duxhat[c]);
            }
            store(m->out, d, at, channels, format);
        }
    }
}

KERNEL(line_slopes, Lines, FORMATS)
KERNEL(line_means, Lines, FORMATS)
KERNEL(line_forward, Lines, FORMATS)
KERNEL(line_sums, Lines, FORMATS)
KERNEL(line_backward, Lines, FORMATS)

#define OVER_SLABS(kernel)                                                                  \
    int64_t slabs = m->samples * m->extent[0];                                              \
    _Pragma("omp parallel for schedule(static) num_threads(m->threads)")                    \
    for (int64_t number = 0; number < slabs; number++) kernel(m, number);

/* Copy each slab's own row of `width` numbers, and add up, in order, the rows of the other lines: (X + Y + Z, width) per sample. */
static void gather(const Lines *m, const float *rows, int64_t stride, int64_t width, float *total) {
    int64_t X = m->extent[0], others = (m->extent[1] + m->extent[2]) * width;
    for (int64_t sample = 0; sample < m->samples; sample++) {
        const float *first = rows + sample * X * stride;
        float *to = total + sample * lines_of(m) * width;
        for (int64_t i = 0; i < X; i++) memcpy(to + i * width, first + i * stride, sizeof(float) * (size_t)width);
        for (int64_t n = 0; n < others; n++) {
            double sum = 0;
            for (int64_t i = 0; i < X; i++) sum += first[i * stride + width + n];
            to[X * width + n] = (float)sum;
        }
    }
}

/* Numbers of the buffer `partial` that the functions below need. */
int64_t se_med_line_partial(const Lines *m) {
    int64_t parts = 1 + m->extent[1] + m->extent[2], slopes = parts * 2 * m->channels;
    int64_t sums = (3 + m->hidden) * m->channels + parts * m->hidden;
    return m->samples * m->extent[0] * (slopes > sums ? slopes : sums);
}

/* total: (samples, X + Y + Z, 2, channels), sums over each line of the activation's slope and of slope times xhat. */
void se_med_line_slopes(const Lines *m, float *total) {
    { OVER_SLABS(line_slopes) }
    gather(m, m->partial, (1 + m->extent[1] + m->extent[2]) * 2 * m->channels, 2 * m->channels, total);
}

/* total: (samples, X + Y + Z, channels), sums of y over each line. */
void se_med_line_means(const Lines *m, float *total) {
    { OVER_SLABS(line_means) }
    gather(m, m->partial, (1 + m->extent[1] + m->extent[2]) * m->channels, m->channels, total);
}

/* out: z. */
void se_med_line_forward(const Lines *m) { OVER_SLABS(line_forward) }

/* total: (samples, 3 + hidden, channels), sums of du, du xhat, d b and d w; dp: (samples, X + Y + Z, hidden). */
void se_med_line_sums(const Lines *m, float *total, float *dp) {
    { OVER_SLABS(line_sums) }
    int64_t X = m->extent[0], own = (3 + m->hidden) * m->channels;
    int64_t stride = own + (1 + m->extent[1] + m->extent[2]) * m->hidden;
    for (int64_t sample = 0; sample < m->samples; sample++)
        for (int64_t n = 0; n < own; n++) {
            double sum = 0;
            for (int64_t i = 0; i < X; i++) sum += m->partial[(sample * X + i) * stride + n];
            total[sample * own + n] = (float)sum;
        }
    gather(m, m->partial + own, stride, m->hidden, dp);
}

/* out: d loss / d x. */
void se_med_line_backward(const Lines *m) { OVER_SLABS(line_backward) }
