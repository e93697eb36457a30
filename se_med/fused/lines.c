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

INLINE void hidden_at(const Lines *m, int64_t sample, int64_t i, int64_t j, int64_t k, float *h) {
    const float *p = m->p + sample * lines_of(m) * m->hidden;
    const float *pi = p + i * m->hidden, *pj = p + (m->extent[0] + j) * m->hidden;
    const float *pk = p + (m->extent[0] + m->extent[1] + k) * m->hidden;
#pragma omp simd
    for (int64_t n = 0; n < m->hidden; n++) {
        float t = pi[n] + pj[n] + pk[n];
        h[n] = t > 0 ? t : 0;
    }
}

INLINE void gate_at(const Lines *m, const float *h, float *g) {
    int64_t channels = m->channels;
    memcpy(g, m->b, sizeof(float) * (size_t)channels);
    for (int64_t n = 0; n < m->hidden; n++) {
        const float *w = m->w + n * channels;
        float times = h[n];
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) g[c] += times * w[c];
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) g[c] = 1.0f / (1.0f + exponential(-g[c]));
}

/* Rows (1 + Y + Z, 2, channels): sums over the slab, and over its part of each line, of the activation's slope and of slope times
 * xhat. The means of y over lines are made of them, and what a gradient of such a mean adds to the gradient of the norm. */
INLINE void line_slopes_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0];
    const float slope = m->slope;
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    float x[WIDEST], a[WIDEST], b[WIDEST];
    float *row = m->partial + number * (1 + Y + Z) * 2 * channels;
    memset(row, 0, sizeof(float) * (size_t)((1 + Y + Z) * 2 * channels));
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++) {
        float *of_j = row + (1 + j) * 2 * channels;
        for (int64_t k = 0; k < Z; k++) {
            float *of_k = row + (1 + Y + k) * 2 * channels;
            load(x, m->x, ((number * Y + j) * Z + k) * channels, channels, format);
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float times = a[c] * x[c] + b[c] > 0 ? 1.0f : slope;
                float first = times, second = times * (x[c] - mean[c]) * rstd[c];
                of_j[c] += first;
                of_j[channels + c] += second;
                of_k[c] += first;
                of_k[channels + c] += second;
            }
        }
        for (int64_t c = 0; c < 2 * channels; c++) row[c] += of_j[c];
    }
}

INLINE void line_forward_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0], i = number % m->extent[0];
    const float slope = m->slope;
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    float x[WIDEST], a[WIDEST], b[WIDEST], h[WIDEST], g[WIDEST];
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++)
        for (int64_t k = 0; k < Z; k++) {
            int64_t at = ((number * Y + j) * Z + k) * channels;
            load(x, m->x, at, channels, format);
            hidden_at(m, sample, i, j, k, h);
            gate_at(m, h, g);
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float u = a[c] * x[c] + b[c];
                x[c] = g[c] * (u > 0 ? u : slope * u);
            }
            store(m->out, x, at, channels, format);
        }
}

/* Rows: du, du xhat, d b, each (channels); d w, (hidden, channels); d p of the slab's part of each line, (1 + Y + Z, hidden). du
 * holds what comes through y itself, not what comes through the lines. */
INLINE void line_sums_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, hidden = m->hidden, Y = m->extent[1], Z = m->extent[2];
    int64_t sample = number / m->extent[0], i = number % m->extent[0], wide = (3 + hidden) * channels + (1 + Y + Z) * hidden;
    const float slope = m->slope;
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    float x[WIDEST], d[WIDEST], a[WIDEST], b[WIDEST], h[WIDEST], g[WIDEST], dlogit[WIDEST];
    float *du = m->partial + number * wide, *duxhat = du + channels, *db = duxhat + channels, *dw = db + channels;
    float *of_i = dw + hidden * channels;
    memset(du, 0, sizeof(float) * (size_t)wide);
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++)
        for (int64_t k = 0; k < Z; k++) {
            int64_t at = ((number * Y + j) * Z + k) * channels;
            float *of_j = of_i + (1 + j) * hidden, *of_k = of_i + (1 + Y + k) * hidden;
            load(x, m->x, at, channels, format);
            load(d, m->dz, at, channels, format);
            hidden_at(m, sample, i, j, k, h);
            gate_at(m, h, g);
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

INLINE void line_backward_of(const Lines *m, int64_t number, int format) {
    int64_t channels = m->channels, Y = m->extent[1], Z = m->extent[2], sample = number / m->extent[0], i = number % m->extent[0];
    const float slope = m->slope;
    const float *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels;
    const float *mean_du = m->corrections + sample * 2 * channels, *mean_duxhat = mean_du + channels;
    const float *squeezed = m->squeezed + sample * lines_of(m) * channels, *from_i = squeezed + i * channels;
    float x[WIDEST], d[WIDEST], a[WIDEST], b[WIDEST], h[WIDEST], g[WIDEST];
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t j = 0; j < Y; j++)
        for (int64_t k = 0; k < Z; k++) {
            int64_t at = ((number * Y + j) * Z + k) * channels;
            const float *from_j = squeezed + (m->extent[0] + j) * channels;
            const float *from_k = squeezed + (m->extent[0] + Y + k) * channels;
            load(x, m->x, at, channels, format);
            load(d, m->dz, at, channels, format);
            hidden_at(m, sample, i, j, k, h);
            gate_at(m, h, g);
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float dy = d[c] * g[c] + from_i[c] + from_j[c] + from_k[c];
                float inner = (a[c] * x[c] + b[c] > 0 ? 1.0f : slope) * dy;
                d[c] = a[c] * (inner - mean_du[c] - (x[c] - mean[c]) * rstd[c] * mean_duxhat[c]);
            }
            store(m->out, d, at, channels, format);
        }
}

KERNEL(line_slopes, Lines, FORMATS)
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
