/* Instance norm, activation and gate of a U-Net's maps in few passes over channels-last memory.
 *
 * Every map is (samples, voxels, channels), the channels of a voxel side by side. For a voxel v and a channel c of one sample
 *
 *     xhat = (x - mean[c]) rstd[c],   u = weight[c] xhat + bias[c],   y = u where u > 0, else slope u
 *
 * and, with channel gates g[c] and voxel gates s[v] = sigmoid(sum_c w[c] y[c] + w0),
 *
 *     z = g y,  s y,  max(g y, s y)  or  g y + s y.
 *
 * Without a gate g is 1. Only x, the two statistics and s are needed to go back: y is computed again. Sums over voxels are formed
 * in chunks of fixed size that are added in order, so that no result depends on the number of threads. All arithmetic is float32,
 * sums of chunks float64. Nothing here allocates: the caller passes all buffers.
 *
 * The passes over a sample follow each other while its map is in the cache; samples are taken together only where they are small.
 */
#include <math.h>

#include "excite.h"
#include "map.h"
#include "passes.h"

#define NEAR (1 << 19)     /* bytes of maps that a core keeps near */

/* What a call does, one after the other. */
enum { MOMENTS = 1, SLOPES = 2, EXCITE = 4, FORWARD = 8 };
enum { SUMS = 1, CORRECT = 2, EXCITE_BACK = 4, BACKWARD = 8 };

#define MODES(name, m, number, format)                                                      \
    switch (m->mode) {                                                                      \
        case SPATIAL: name##_of(m, number, format, SPATIAL); break;                         \
        case LARGER: name##_of(m, number, format, LARGER); break;                           \
        case SUM: name##_of(m, number, format, SUM); break;                                 \
        default: name##_of(m, number, format, CHANNEL);                                       \
    }
#define FORMATS_AND_MODES(name, m, number)                                                  \
    if (m->format == BFLOAT16) MODES(name, m, number, BFLOAT16)                             \
    else MODES(name, m, number, FLOAT32)
#define ONCE(name, m, number) name##_of(m, number);

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
KERNEL(excite, Map, ONCE)
KERNEL(excite_back, Map, ONCE)

int64_t se_med_chunks(int64_t voxels) { return (voxels + CHUNK - 1) / CHUNK; }
int64_t se_med_widest(void) { return WIDEST; }

/* mean and rstd of a sample, from what its chunks have. */
static void finish_moments(const Map *m, int64_t sample) {
    const int64_t chunks = chunks_of(m), channels = m->channels;
    const float *rows = m->partial + sample * chunks * 2 * channels;
    for (int64_t c = 0; c < channels; c++) {
        double first = 0, second = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            first += rows[chunk * 2 * channels + c];
            second += rows[chunk * 2 * channels + channels + c];
        }
        float origin = value(m->x, sample * m->voxels * channels + c, m->format);
        double away = first / (double)m->voxels, variance = second / (double)m->voxels - away * away;
        m->mean[sample * channels + c] = (float)(origin + away);
        m->rstd[sample * channels + c] = (float)(1.0 / sqrt((variance > 0 ? variance : 0) + m->epsilon));
    }
}

/* Add what the chunks of a sample have, in order. */
static void add_up(const Map *m, int64_t sample, int64_t width, float *total) {
    const int64_t chunks = chunks_of(m);
    const float *rows = m->partial + sample * chunks * width;
    for (int64_t c = 0; c < width; c++) {
        double sum = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) sum += rows[chunk * width + c];
        total[c] = (float)sum;
    }
}

static void finish_slopes(const Map *m, int64_t sample, int32_t steps) {
    const int64_t channels = m->channels;
    float *total = m->slopes + sample * 2 * channels;
    add_up(m, sample, 2 * channels, total);
    for (int64_t c = 0; c < channels; c++) total[channels + c] *= m->rstd[sample * channels + c];
    if (steps & EXCITE) excite(m, sample);
}

static void finish_sums(const Map *m, int64_t sample, int32_t steps) {
    const int64_t channels = m->channels;
    const float *gate = m->gate + sample * channels, *rstd = m->rstd + sample * channels;
    float *du = m->totals + sample * (4 * channels + 1), *duxhat = du + channels, *dgate = duxhat + channels;
    add_up(m, sample, 4 * channels + 1, du);
    for (int64_t c = 0; c < channels; c++) {
        duxhat[c] *= rstd[c];
        if (m->mode != CHANNEL) continue;
        dgate[c] = m->weight[c] * duxhat[c] + m->bias[c] * du[c];
        du[c] *= gate[c];
        duxhat[c] *= gate[c];
    }
    if (!(steps & CORRECT)) return;
    float *row = m->corrections + sample * 3 * channels, *squeezed = row + 2 * channels;
    if (steps & EXCITE_BACK) {
        const float *slopes = m->slopes + sample * 2 * channels;
        excite_back(m, sample);
        for (int64_t c = 0; c < channels; c++) {
            du[c] += squeezed[c] * slopes[c];
            duxhat[c] += squeezed[c] * slopes[channels + c];
        }
    } else {
        memset(squeezed, 0, sizeof(float) * (size_t)channels);
    }
    for (int64_t c = 0; c < channels; c++) {
        row[c] = du[c] / (float)m->voxels;
        row[channels + c] = duxhat[c] / (float)m->voxels;
    }
}

/* Samples that are taken together: so many that every core has its part of them near, but at least one. */
static int64_t group_of(const Map *m) {
    int64_t bytes = m->voxels * m->channels * (m->format == BFLOAT16 ? 2 : 4), many = (int64_t)m->threads * NEAR / bytes;
    return many > 1 ? many : 1;
}

#define OVER(first, last, call)                                                             \
    _Pragma("omp for schedule(static)")                                                     \
    for (int64_t number = first; number < last; number++) call;
#define GROUPS(body)                                                                        \
    const int64_t chunks = chunks_of(m), group = group_of(m);                               \
    _Pragma("omp parallel num_threads(m->threads)")                                         \
    for (int64_t from = 0; from < m->samples; from += group) {                              \
        const int64_t to = from + group < m->samples ? from + group : m->samples;           \
        body                                                                                \
    }

/* The steps MOMENTS (mean and rstd), SLOPES (slopes), EXCITE (with SLOPES: pooled, units and gate) and FORWARD (s and out). */
void se_med_norm_forward(const Map *m, int32_t steps) {
    GROUPS(
        if (steps & MOMENTS) {
            OVER(from * chunks, to * chunks, moments(m, number))
            OVER(from, to, finish_moments(m, number))
        }
        if (steps & SLOPES) {
            OVER(from * chunks, to * chunks, slopes(m, number))
            OVER(from, to, finish_slopes(m, number, steps))
        }
        if (steps & FORWARD) { OVER(from * chunks, to * chunks, forward(m, number)) }
    )
}

/* The steps SUMS (totals, ds), with it CORRECT (corrections; totals of du and du xhat with what comes through the squeeze) and
 * EXCITE_BACK (dlogits, dunits), and BACKWARD (out). */
void se_med_norm_backward(const Map *m, int32_t steps) {
    GROUPS(
        if (steps & SUMS) {
            OVER(from * chunks, to * chunks, sums(m, number))
            OVER(from, to, finish_sums(m, number, steps))
        }
        if (steps & BACKWARD) { OVER(from * chunks, to * chunks, backward(m, number)) }
    )
}
