/* Instance norm, activation, channel gate and, after it, spatial gate (CBAM) over channels-last memory; see norm.c for norm and
 * activation, and for what holds of sums.
 *
 *     q = g[c] y,   s[v] from the mean and the maximum over channels of q,   z = s[v] q.
 *
 * The channel gate g comes from the mean and the maximum of y over the voxels. The caller makes g and s of them. Only x, its two
 * statistics, s, and what s was made of are needed to go back. Where a maximum is reached more than once, its gradient is shared.
 */
#include <math.h>

#include "fold.h"
#include "vectors.h"

#define CHUNK 1024         /* voxels whose sums are formed together */
#define WIDEST 1024        /* channels of the widest map */
#define ROWS 4             /* voxels that one turn of a loop takes */
#define EACH_ROW _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)

typedef struct {
    int64_t samples, voxels, channels;
    int32_t format, threads, width;                 /* width: of the vectors, see se_med_width */
    float slope;
    const void *x;                                  /* (samples, voxels, channels) */
    const float *mean, *rstd;                       /* (samples, channels) */
    const float *weight, *bias;                     /* (channels), of the norm */
    const float *gate;                              /* (samples, channels) */
    const float *peak;                              /* (samples, channels): x where y is largest */
    const float *s;                                 /* (samples, voxels) */
    float *pooled;                                  /* (samples, 2, voxels): mean and maximum of q over channels */
    const float *dpooled;                           /* like pooled */
    const float *corrections;                       /* (samples, 4, channels): means of du and du xhat; gradient of every y, of peaks */
    const void *dz;                                 /* like x */
    void *out;                                      /* like x: z, or d loss / d x */
    float *ds;                                      /* (samples, voxels) */
    float *partial;                                 /* sums of each chunk; see the functions */
} Cascade;

INLINE int64_t chunks_of(const Cascade *m) { return (m->voxels + CHUNK - 1) / CHUNK; }

/* Which voxels the chunk has: sample and first to last. */
#define BEGIN                                                                                       \
    int64_t channels = m->channels, sample = number / chunks_of(m), begin = number % chunks_of(m) * CHUNK; \
    int64_t end = begin + CHUNK < m->voxels ? begin + CHUNK : m->voxels;                            \
    const float slope = m->slope, *mean = m->mean + sample * channels, *rstd = m->rstd + sample * channels; \
    float x[WIDEST], a[WIDEST], b[WIDEST];                                                          \
    fold(channels, m->weight, m->bias, mean, rstd, a, b);

/* q of a voxel from its x, and its largest value. */
INLINE float weigh(int64_t channels, const float *x, const float *a, const float *b, const float *gate, float slope, float *q) {
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t c = 0; c < channels; c++) {
        float u = a[c] * x[c] + b[c];
        q[c] = gate[c] * (u > 0 ? u : slope * u);
        most = q[c] > most ? q[c] : most;
    }
    return most;
}

/* d loss / d q: through z, the mean and the maximum. */
INLINE void through(int64_t channels, const float *q, float most, float s, float dmean, float dmost, float *d) {
    float reached = 0;
#pragma omp simd reduction(+ : reached)
    for (int64_t c = 0; c < channels; c++) reached += q[c] == most ? 1.0f : 0.0f;
    float each = dmean / (float)channels, share = dmost / reached;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) d[c] = d[c] * s + each + (q[c] == most ? share : 0.0f);
}

/* What a chunk has of the squeeze, each (channels): sums of the activation's slope and of slope times x - mean; the largest y, x
 * there, and how often it is reached. */
typedef struct { float first[WIDEST], second[WIDEST], most[WIDEST], peak[WIDEST], times[WIDEST]; } Squeezed;

/* Add `rows` voxels from number `at` on, a constant where this is called: what is added to is read and written once for all. */
INLINE void squeeze_rows(const Cascade *m, int64_t at, int rows, const float *a, const float *b, const float *mean, Squeezed *to,
                         int format) {
    const int64_t channels = m->channels;
    const float slope = m->slope;
    const void *x = m->x;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        float first = 0, second = 0, most = to->most[c], peak = to->peak[c], times = to->times[c];
        EACH_ROW {
            float at_v = value(x, (at + r) * channels + c, format);
            float u = a[c] * at_v + b[c], step = u > 0 ? 1.0f : slope, y = step * u;
            first += step;
            second += step * (at_v - mean[c]);
            times = y > most ? 1.0f : times + (y == most ? 1.0f : 0.0f);
            peak = y > most ? at_v : peak;
            most = y > most ? y : most;
        }
        to->first[c] += first;
        to->second[c] += second;
        to->most[c] = most;
        to->peak[c] = peak;
        to->times[c] = times;
    }
}

/* Rows (5, channels): as in Squeezed, with xhat instead of x - mean. */
INLINE void cascade_squeeze_of(const Cascade *m, int64_t number, int format) {
    BEGIN
    (void)x, (void)slope;
    float *row = m->partial + number * 5 * channels;
    Squeezed found;
    for (int64_t c = 0; c < channels; c++) {
        found.first[c] = found.second[c] = found.times[c] = found.peak[c] = 0;
        found.most[c] = -INFINITY;
    }
    int64_t v = sample * m->voxels + begin, last = sample * m->voxels + end;
    for (; v + ROWS <= last; v += ROWS) squeeze_rows(m, v, ROWS, a, b, mean, &found, format);
    for (; v < last; v++) squeeze_rows(m, v, 1, a, b, mean, &found, format);
    for (int64_t c = 0; c < channels; c++) {
        row[c] = found.first[c];
        row[channels + c] = found.second[c] * rstd[c];
        row[2 * channels + c] = found.most[c];
        row[3 * channels + c] = found.peak[c];
        row[4 * channels + c] = found.times[c];
    }
}

/* Mean and maximum of q over the channels of voxel number `at`. */
INLINE void pool_at(const Cascade *m, int64_t at, const float *a, const float *b, const float *gate, float *mean, float *largest,
                    int format) {
    float x[WIDEST], q[WIDEST], sum = 0;
    load(x, m->x, at * m->channels, m->channels, format);
    *largest = weigh(m->channels, x, a, b, gate, m->slope, q);
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < m->channels; c++) sum += q[c];
    *mean = sum / (float)m->channels;
}

#if defined(__x86_64__) && defined(__GNUC__)
/* The same with both reductions in registers. */
WIDE static void pool_wide(const Cascade *m, int64_t first, int64_t last, const float *a, const float *b, const float *gate,
                           float *means, float *largest) {
    const __m512 slope = _mm512_set1_ps(m->slope), none = _mm512_setzero_ps(), least = _mm512_set1_ps(-INFINITY);
    for (int64_t at = first; at < last; at++) {
        __m512 sum = none, most = least;
        for (int64_t c = 0; c < m->channels; c += 16) {
            const __mmask16 mask = m->channels - c >= 16 ? 0xffff : (__mmask16)((1u << (m->channels - c)) - 1);
            const __m512 x = m->format == BFLOAT16 ? wide_bfloat16((const uint16_t *)m->x + at * m->channels + c, mask)
                                                   : _mm512_maskz_loadu_ps(mask, (const float *)m->x + at * m->channels + c);
            const __m512 u = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + c), x, _mm512_maskz_loadu_ps(mask, b + c));
            const __m512 y = _mm512_mask_mul_ps(u, _mm512_cmp_ps_mask(u, none, _CMP_NGT_UQ), u, slope);
            const __m512 q = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, gate + c), y);
            sum = _mm512_add_ps(sum, q);
            most = _mm512_mask_max_ps(most, mask, most, q);
        }
        means[at - first] = _mm512_reduce_add_ps(sum) / (float)m->channels;
        largest[at - first] = _mm512_reduce_max_ps(most);
    }
}
#endif

INLINE void cascade_pool_of(const Cascade *m, int64_t number, int format) {
    BEGIN
    (void)x, (void)slope, (void)mean, (void)rstd;
    const float *gate = m->gate + sample * channels;
    float *means = m->pooled + sample * 2 * m->voxels, *largest = means + m->voxels;
    const int64_t from = sample * m->voxels;
#if defined(__x86_64__) && defined(__GNUC__)
    if (m->width == 3) {
        pool_wide(m, from + begin, from + end, a, b, gate, means + begin, largest + begin);
        return;
    }
#endif
    for (int64_t v = begin; v < end; v++) pool_at(m, from + v, a, b, gate, means + v, largest + v, format);
}

INLINE void out_rows(const Cascade *m, int64_t at, int rows, const float *a, const float *b, const float *gate, int format) {
    const int64_t channels = m->channels;
    const float slope = m->slope, *s = m->s + at;
    const void *x = m->x;
    void *out = m->out;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
        EACH_ROW {
            float u = a[c] * value(x, (at + r) * channels + c, format) + b[c];
            put(out, (at + r) * channels + c, s[r] * (gate[c] * (u > 0 ? u : slope * u)), format);
        }
    }
}

INLINE void cascade_forward_of(const Cascade *m, int64_t number, int format) {
    BEGIN
    (void)x, (void)slope, (void)mean, (void)rstd;
    const float *gate = m->gate + sample * channels;
    int64_t v = sample * m->voxels + begin, last = sample * m->voxels + end;
    for (; v + ROWS <= last; v += ROWS) out_rows(m, v, ROWS, a, b, gate, format);
    for (; v < last; v++) out_rows(m, v, 1, a, b, gate, format);
}

INLINE void cascade_voxels_of(const Cascade *m, int64_t number, int format) {
    BEGIN
    const float *gate = m->gate + sample * channels;
    float q[WIDEST], d[WIDEST];
    for (int64_t v = begin; v < end; v++) {
        int64_t at = sample * m->voxels + v;
        load(x, m->x, at * channels, channels, format);
        load(d, m->dz, at * channels, channels, format);
        weigh(channels, x, a, b, gate, slope, q);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < channels; c++) sum += d[c] * q[c];
        m->ds[at] = sum;
    }
}

/* Rows (3, channels): du and du xhat without what comes through the channel gate, and d gate. */
INLINE void cascade_sums_of(const Cascade *m, int64_t number, int format) {
    BEGIN
    const float *gate = m->gate + sample * channels, *dmean = m->dpooled + sample * 2 * m->voxels, *dmost = dmean + m->voxels;
    float q[WIDEST], d[WIDEST], du[WIDEST], duxhat[WIDEST], dgate[WIDEST], *row = m->partial + number * 3 * channels;
    size_t bytes = sizeof(float) * (size_t)channels;
    memset(du, 0, bytes);
    memset(duxhat, 0, bytes);
    memset(dgate, 0, bytes);
    for (int64_t v = begin; v < end; v++) {
        int64_t at = sample * m->voxels + v;
        load(x, m->x, at * channels, channels, format);
        load(d, m->dz, at * channels, channels, format);
        float most = weigh(channels, x, a, b, gate, slope, q);
        through(channels, q, most, m->s[at], dmean[v], dmost[v], d);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float u = a[c] * x[c] + b[c], step = u > 0 ? 1.0f : slope, inner = step * d[c] * gate[c];
            dgate[c] += d[c] * step * u;
            du[c] += inner;
            duxhat[c] += inner * (x[c] - mean[c]) * rstd[c];
        }
    }
    memcpy(row, du, bytes);
    memcpy(row + channels, duxhat, bytes);
    memcpy(row + 2 * channels, dgate, bytes);
}

INLINE void cascade_backward_of(const Cascade *m, int64_t number, int format) {
    BEGIN
    const float *gate = m->gate + sample * channels, *dmean = m->dpooled + sample * 2 * m->voxels, *dmost = dmean + m->voxels;
    const float *mean_du = m->corrections + sample * 4 * channels, *mean_duxhat = mean_du + channels;
    const float *each = mean_du + 2 * channels, *at_peak = mean_du + 3 * channels, *peak = m->peak + sample * channels;
    float q[WIDEST], d[WIDEST];
    for (int64_t v = begin; v < end; v++) {
        int64_t at = sample * m->voxels + v;
        load(x, m->x, at * channels, channels, format);
        load(d, m->dz, at * channels, channels, format);
        float most = weigh(channels, x, a, b, gate, slope, q);
        through(channels, q, most, m->s[at], dmean[v], dmost[v], d);
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float dy = d[c] * gate[c] + each[c] + (x[c] == peak[c] ? at_peak[c] : 0.0f);
            float inner = (a[c] * x[c] + b[c] > 0 ? 1.0f : slope) * dy;
            d[c] = a[c] * (inner - mean_du[c] - (x[c] - mean[c]) * rstd[c] * mean_duxhat[c]);
        }
        store(m->out, d, at * channels, channels, format);
    }
}

KERNEL(cascade_squeeze, Cascade, FORMATS)
KERNEL(cascade_pool, Cascade, FORMATS)
KERNEL(cascade_forward, Cascade, FORMATS)
KERNEL(cascade_voxels, Cascade, FORMATS)
KERNEL(cascade_sums, Cascade, FORMATS)
KERNEL(cascade_backward, Cascade, FORMATS)

#define OVER_CHUNKS(kernel)                                                                 \
    int64_t chunks = m->samples * chunks_of(m);                                             \
    _Pragma("omp parallel for schedule(static) num_threads(m->threads)")                    \
    for (int64_t number = 0; number < chunks; number++) kernel(m, number);

/* Numbers of the buffer `partial` that the functions below need. */
int64_t se_med_cascade_partial(const Cascade *m) { return m->samples * chunks_of(m) * 5 * m->channels; }

/* total: (samples, 5, channels), see cascade_squeeze_of. */
void se_med_cascade_squeeze(const Cascade *m, float *total) {
    { OVER_CHUNKS(cascade_squeeze) }
    int64_t chunks = chunks_of(m), channels = m->channels;
    for (int64_t sample = 0; sample < m->samples; sample++)
        for (int64_t c = 0; c < channels; c++) {
            double first = 0, second = 0, times = 0;
            float most = -INFINITY, peak = 0, *to = total + sample * 5 * channels + c;
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const float *row = m->partial + (sample * chunks + chunk) * 5 * channels + c;
                first += row[0];
                second += row[channels];
                if (row[2 * channels] > most) {
                    most = row[2 * channels];
                    peak = row[3 * channels];
                    times = 0;
                }
                times += row[2 * channels] == most ? row[4 * channels] : 0;
            }
            to[0] = (float)first;
            to[channels] = (float)second;
            to[2 * channels] = most;
            to[3 * channels] = peak;
            to[4 * channels] = (float)times;
        }
}

/* pooled: mean and maximum of q over channels. */
void se_med_cascade_pool(const Cascade *m) { OVER_CHUNKS(cascade_pool) }

/* out: z. */
void se_med_cascade_forward(const Cascade *m) { OVER_CHUNKS(cascade_forward) }

/* ds: gradient of the spatial gate. */
void se_med_cascade_voxels(const Cascade *m) { OVER_CHUNKS(cascade_voxels) }

/* total: (samples, 3, channels), sums of du, du xhat and d gate. */
void se_med_cascade_sums(const Cascade *m, float *total) {
    { OVER_CHUNKS(cascade_sums) }
    int64_t chunks = chunks_of(m), width = 3 * m->channels;
    for (int64_t sample = 0; sample < m->samples; sample++)
        for (int64_t c = 0; c < width; c++) {
            double sum = 0;
            for (int64_t chunk = 0; chunk < chunks; chunk++) sum += m->partial[(sample * chunks + chunk) * width + c];
            total[sample * width + c] = (float)sum;
        }
}

/* out: d loss / d x. */
void se_med_cascade_backward(const Cascade *m) { OVER_CHUNKS(cascade_backward) }
