/* Instance norm, activation and gate of a U-Net's maps in one pass over channels-last memory.
 *
 * Every map is (samples, voxels, channels), the channels of a voxel side by side. For a voxel v and a channel c of one sample
 *
 *     xhat = (x - mean[c]) rstd[c],   u = weight[c] xhat + bias[c],   y = u where u > 0, else slope u
 *
 * and, with channel gates g[c] and voxel gates s[v] = sigmoid(sum_c w[c] y[c] + w0),
 *
 *     z = y,  g y,  s y,  max(g y, s y)  or  g y + s y.
 *
 * Only x, the two statistics and s are needed to go back: y is computed again. Sums over voxels are formed in chunks of fixed
 * size that are added in order, so that no result depends on the number of threads. All arithmetic is float32, sums of chunks
 * float64. Nothing here allocates: the caller passes all buffers.
 */
#include <math.h>

#include "fold.h"
#include "vectors.h"

#define CHUNK 1024         /* voxels whose sums are formed together */
#define WIDEST 1024        /* channels of the widest map */

enum { PLAIN = 0, CHANNEL = 1, SPATIAL = 2, LARGER = 3, SUM = 4 };

typedef struct {
    int64_t samples, voxels, channels;
    int32_t format, mode, threads, width;           /* width: of the vectors, see se_med_width */
    float slope;
    const void *x;                                  /* (samples, voxels, channels) */
    const float *mean, *rstd;                       /* (samples, channels) */
    const float *weight, *bias;                     /* (channels) */
    const float *gate;                              /* (samples, channels), channel gates */
    const float *w;                                 /* (channels), and w0 behind them: the voxel gates' weights */
    float *s;                                       /* (samples, voxels), voxel gates */
    const void *dz;                                 /* (samples, voxels, channels) */
    void *out;                                      /* (samples, voxels, channels): z, or d loss / d x */
    float *partial;                                 /* sums of each chunk; see the functions */
} Map;

/* Where a sample's chunk lies. */
typedef struct { int64_t sample, first, last; } Chunk;

static Chunk chunk_at(const Map *m, int64_t number) {
    int64_t chunks = (m->voxels + CHUNK - 1) / CHUNK;
    Chunk chunk = { number / chunks, (number % chunks) * CHUNK, 0 };
    chunk.last = chunk.first + CHUNK < m->voxels ? chunk.first + CHUNK : m->voxels;
    return chunk;
}

/* Sums of x - origin and of its square, where the origin is the sample's first voxel: the variance then loses no digits. */
INLINE void moments_of(const Map *m, int64_t number, int format) {
    Chunk at = chunk_at(m, number);
    int64_t channels = m->channels, base = at.sample * m->voxels;
    float x[WIDEST], origin[WIDEST], first[WIDEST], second[WIDEST];
    load(origin, m->x, base * channels, channels, format);
    memset(first, 0, sizeof(float) * (size_t)channels);
    memset(second, 0, sizeof(float) * (size_t)channels);
    for (int64_t v = at.first; v < at.last; v++) {
        load(x, m->x, (base + v) * channels, channels, format);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float away = x[c] - origin[c];
            first[c] += away;
            second[c] += away * away;
        }
    }
    float *row = m->partial + number * 2 * channels;
    memcpy(row, first, sizeof(float) * (size_t)channels);
    memcpy(row + channels, second, sizeof(float) * (size_t)channels);
}

/* Sums of the activation's slope and of slope times xhat: what the mean of y is made of, and its gradient. */
INLINE void slopes_of(const Map *m, int64_t number, int format) {
    Chunk at = chunk_at(m, number);
    const float slope = m->slope;
    int64_t channels = m->channels, base = at.sample * m->voxels;
    const float *mean = m->mean + at.sample * channels, *rstd = m->rstd + at.sample * channels;
    float x[WIDEST], a[WIDEST], b[WIDEST], first[WIDEST], second[WIDEST];
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    memset(first, 0, sizeof(float) * (size_t)channels);
    memset(second, 0, sizeof(float) * (size_t)channels);
    for (int64_t v = at.first; v < at.last; v++) {
        load(x, m->x, (base + v) * channels, channels, format);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float times = a[c] * x[c] + b[c] > 0 ? 1.0f : slope;
            first[c] += times;
            second[c] += times * (x[c] - mean[c]) * rstd[c];
        }
    }
    float *row = m->partial + number * 2 * channels;
    memcpy(row, first, sizeof(float) * (size_t)channels);
    memcpy(row + channels, second, sizeof(float) * (size_t)channels);
}

INLINE void forward_of(const Map *m, int64_t number, int format, int mode) {
    Chunk at = chunk_at(m, number);
    const float slope = m->slope;
    int64_t channels = m->channels, base = at.sample * m->voxels;
    const float *mean = m->mean + at.sample * channels, *rstd = m->rstd + at.sample * channels;
    const float *w = m->w, *gate = m->gate + at.sample * channels;
    float a[WIDEST], b[WIDEST], y[WIDEST];
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t v = at.first; v < at.last; v++) {
        load(y, m->x, (base + v) * channels, channels, format);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float u = a[c] * y[c] + b[c];
            y[c] = u > 0 ? u : slope * u;
        }
        float s = 0;
        if (mode >= SPATIAL) {
            float logit = 0;
#pragma omp simd reduction(+ : logit)
            for (int64_t c = 0; c < channels; c++) logit += w[c] * y[c];
            s = 1.0f / (1.0f + expf(-(logit + w[channels])));
            m->s[base + v] = s;
        }
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            if (mode == CHANNEL) y[c] *= gate[c];
            if (mode == SPATIAL) y[c] *= s;
            if (mode == LARGER) y[c] *= (y[c] > 0) == (gate[c] > s) ? gate[c] : s;
            if (mode == SUM) y[c] *= gate[c] + s;
        }
        store(m->out, y, (base + v) * channels, channels, format);
    }
}

/* The factor on y at one voxel and channel, and the share of the channel gate in its gradient (half where both are equal). */
INLINE float factor(int mode, float y, float gate, float s, float *share) {
    if (mode == CHANNEL) return *share = 1, gate;
    if (mode == SPATIAL) return *share = 0, s;
    if (mode == SUM) return *share = 1, gate + s;
    if (mode == LARGER) {
        float apart = y * (gate - s);
        *share = apart > 0 ? 1.0f : apart < 0 ? 0.0f : 0.5f;
        return *share * gate + (1 - *share) * s;
    }
    return *share = 0, 1;
}

/* Rows of partial sums: du, du xhat, d gate, d w, and one number, d w0; what a mode does not have is 0. */
INLINE void sums_of(const Map *m, int64_t number, int format, int mode) {
    Chunk at = chunk_at(m, number);
    const float slope = m->slope;
    int64_t channels = m->channels, base = at.sample * m->voxels;
    size_t bytes = sizeof(float) * (size_t)channels;
    const float *mean = m->mean + at.sample * channels, *rstd = m->rstd + at.sample * channels;
    const float *w = m->w, *gate = m->gate + at.sample * channels;
    float a[WIDEST], b[WIDEST], x[WIDEST], y[WIDEST], d[WIDEST], du[WIDEST], duxhat[WIDEST], dgate[WIDEST], dw[WIDEST], dw0 = 0;
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    memset(du, 0, bytes);
    memset(duxhat, 0, bytes);
    memset(dgate, 0, bytes);
    memset(dw, 0, bytes);
    for (int64_t v = at.first; v < at.last; v++) {
        load(x, m->x, (base + v) * channels, channels, format);
        load(d, m->dz, (base + v) * channels, channels, format);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float u = a[c] * x[c] + b[c];
            y[c] = u > 0 ? u : slope * u;
        }
        float dlogit = 0;
        if (mode != PLAIN) {
            float s = mode >= SPATIAL ? m->s[base + v] : 0, ds = 0;
#pragma omp simd reduction(+ : ds)
            for (int64_t c = 0; c < channels; c++) {
                float share, times = factor(mode, y[c], gate[c], s, &share);
                float dtimes = d[c] * y[c];
                dgate[c] += share * dtimes;
                ds += (mode == SUM ? 1.0f : 1.0f - share) * dtimes;
                d[c] *= times;
            }
            if (mode >= SPATIAL) dlogit = ds * s * (1 - s);
            dw0 += dlogit;
        }
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            if (mode >= SPATIAL) {
                dw[c] += dlogit * y[c];
                d[c] += dlogit * w[c];
            }
            float inner = (a[c] * x[c] + b[c] > 0 ? 1.0f : slope) * d[c];
            du[c] += inner;
            duxhat[c] += inner * (x[c] - mean[c]) * rstd[c];
        }
    }
    float *row = m->partial + number * (4 * channels + 1);
    memcpy(row, du, bytes);
    memcpy(row + channels, duxhat, bytes);
    memcpy(row + 2 * channels, dgate, bytes);
    memcpy(row + 3 * channels, dw, bytes);
    row[4 * channels] = dw0;
}

/* d loss / d x. partial holds per sample: means of du and du xhat, and the gradient that reaches every y through the squeeze. */
INLINE void backward_of(const Map *m, int64_t number, int format, int mode) {
    Chunk at = chunk_at(m, number);
    const float slope = m->slope;
    int64_t channels = m->channels, base = at.sample * m->voxels;
    const float *mean = m->mean + at.sample * channels, *rstd = m->rstd + at.sample * channels;
    const float *w = m->w, *gate = m->gate + at.sample * channels, *row = m->partial + at.sample * 3 * channels;
    const float *mean_du = row, *mean_duxhat = row + channels, *squeezed = row + 2 * channels;
    float a[WIDEST], b[WIDEST], x[WIDEST], y[WIDEST], d[WIDEST];
    fold(channels, m->weight, m->bias, mean, rstd, a, b);
    for (int64_t v = at.first; v < at.last; v++) {
        load(x, m->x, (base + v) * channels, channels, format);
        load(d, m->dz, (base + v) * channels, channels, format);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float u = a[c] * x[c] + b[c];
            y[c] = u > 0 ? u : slope * u;
        }
        if (mode != PLAIN) {
            float s = mode >= SPATIAL ? m->s[base + v] : 0, dlogit = 0;
            if (mode >= SPATIAL) {
                float ds = 0;
#pragma omp simd reduction(+ : ds)
                for (int64_t c = 0; c < channels; c++) {
                    float share;
                    factor(mode, y[c], gate[c], s, &share);
                    ds += (mode == SUM ? 1.0f : 1.0f - share) * d[c] * y[c];
                }
                dlogit = ds * s * (1 - s);
            }
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float share;
                d[c] = d[c] * factor(mode, y[c], gate[c], s, &share) + squeezed[c];
                if (mode >= SPATIAL) d[c] += dlogit * w[c];
            }
        }
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float inner = (a[c] * x[c] + b[c] > 0 ? 1.0f : slope) * d[c];
            d[c] = a[c] * (inner - mean_du[c] - (x[c] - mean[c]) * rstd[c] * mean_duxhat[c]);
        }
        store(m->out, d, (base + v) * channels, channels, format);
    }
}

#define MODES(name, m, number, format)                                                      \
    switch (m->mode) {                                                                      \
        case CHANNEL: name##_of(m, number, format, CHANNEL); break;                         \
        case SPATIAL: name##_of(m, number, format, SPATIAL); break;                         \
        case LARGER: name##_of(m, number, format, LARGER); break;                           \
        case SUM: name##_of(m, number, format, SUM); break;                                 \
        default: name##_of(m, number, format, PLAIN);                                       \
    }
#define FORMATS_AND_MODES(name, m, number)                                                  \
    if (m->format == BFLOAT16) MODES(name, m, number, BFLOAT16)                             \
    else MODES(name, m, number, FLOAT32)

/* 3 with 512 bit vectors, 2 with 256 bit, 1 for any other processor. */
int32_t se_med_width(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) return 3;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 2;
#endif
    return 1;
}

KERNEL(moments, Map, FORMATS)
KERNEL(slopes, Map, FORMATS)
KERNEL(forward, Map, FORMATS_AND_MODES)
KERNEL(sums, Map, FORMATS_AND_MODES)
KERNEL(backward, Map, FORMATS_AND_MODES)

static int64_t chunks_of(const Map *m) { return (m->voxels + CHUNK - 1) / CHUNK; }

#define OVER_CHUNKS(kernel)                                                                 \
    int64_t chunks = m->samples * chunks_of(m);                                             \
    _Pragma("omp parallel for schedule(static) num_threads(m->threads)")                    \
    for (int64_t number = 0; number < chunks; number++) kernel(m, number);

int64_t se_med_chunks(int64_t voxels) { return (voxels + CHUNK - 1) / CHUNK; }
int64_t se_med_widest(void) { return WIDEST; }

/* Add what the chunks of a sample have, in order. total is (samples, width). */
static void add_up(const Map *m, int64_t width, float *total) {
    int64_t chunks = chunks_of(m);
    for (int64_t sample = 0; sample < m->samples; sample++)
        for (int64_t c = 0; c < width; c++) {
            double sum = 0;
            for (int64_t chunk = 0; chunk < chunks; chunk++) sum += m->partial[(sample * chunks + chunk) * width + c];
            total[sample * width + c] = (float)sum;
        }
}

/* mean and rstd, (samples, channels), from x. */
void se_med_moments(const Map *m, float epsilon, float *mean, float *rstd) {
    { OVER_CHUNKS(moments) }
    int64_t chunks = chunks_of(m), channels = m->channels;
    for (int64_t sample = 0; sample < m->samples; sample++)
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            double first = 0, second = 0;
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const float *row = m->partial + (sample * chunks + chunk) * 2 * channels;
                first += row[c];
                second += row[channels + c];
            }
            int64_t at = sample * m->voxels * channels + c;
            float origin = m->format == BFLOAT16 ? widen(((const uint16_t *)m->x)[at]) : ((const float *)m->x)[at];
            double away = first / (double)m->voxels, variance = second / (double)m->voxels - away * away;
            mean[sample * channels + c] = (float)(origin + away);
            rstd[sample * channels + c] = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + epsilon));
        }
}

/* total: (samples, 2, channels), sums of the activation's slope and of slope times xhat. */
void se_med_slopes(const Map *m, float *total) {
    { OVER_CHUNKS(slopes) }
    add_up(m, 2 * m->channels, total);
}

/* out: z; s: voxel gates, where the mode has them. */
void se_med_forward(const Map *m) { OVER_CHUNKS(forward) }

/* total: (samples, 4 channels + 1), sums of du, du xhat, d gate, d w, and d w0. */
void se_med_sums(const Map *m, float *total) {
    { OVER_CHUNKS(sums) }
    add_up(m, 4 * m->channels + 1, total);
}

/* out: d loss / d x; partial: (samples, 3, channels), means of du and du xhat, gradient through the squeeze at each voxel. */
void se_med_backward(const Map *m) { OVER_CHUNKS(backward) }
