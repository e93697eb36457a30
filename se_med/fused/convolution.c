/* Gradients of a convolution's weights by matrix tiles (AMX), for maps in bf16 and channels-last memory.
 *
 *     dw[tap][o][i] = sum over samples and voxels v of dy[v][o] x[v + tap][i]
 *
 * is a product of matrices whose long side is the voxels. Of one factor tiles want rows of 32 voxels, channel by channel: that is dy, turned
 * round once for all taps. Of the other they want pairs of voxels side by side, channel by channel: that is x with its padding, of which a
 * tap is an offset. Pairs begin at even voxels, so x is laid out twice, once moved by one voxel. A tile then is one kilobyte of
 * memory in a row; with x in rows and offsets into them every tile touched 32 lines far apart, and that took four times as long.
 * Every sample has sums of its own, which are added in their order: no sum depends on the threads.
 */
#include "vectors.h"

#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && defined(__linux__)
#define TILES
#include <immintrin.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define BLOCK 32           /* channels of either map that are handled at once: two tiles */
#define SIDE 16            /* rows of a tile, and numbers of a row of sums */
#define STEP 32            /* voxels of a tile */

typedef struct {
    int64_t samples, inputs, outputs;               /* channels of x and of dy */
    int64_t size[3], kernel[3];                     /* odd sizes of the kernel; the padding is half of them */
    int32_t threads, unused;
    const uint16_t *x, *dy;                         /* (samples, size, inputs) and (samples, size, outputs) */
    float *partial;                                 /* (samples, taps, outputs and inputs rounded up to BLOCK) */
    float *dw;                                      /* (outputs, taps, inputs) */
} Convolution;

INLINE int64_t blocks(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

#ifdef TILES

#define WITH_TILES __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq")))
#define FEATURE 18         /* what the kernel of Linux calls the state of the tiles */
#define ASK 0x1023

typedef struct {
    uint8_t palette, row, unused[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Tiles;

/* A row of a padded plane is even, so that a pair of voxels is never of two rows. */
INLINE int64_t row_length(const Convolution *m) { return (m->size[2] + 2 * (m->kernel[2] / 2) + 1) / 2 * 2; }
INLINE int64_t steps(const Convolution *m) { return (m->size[1] * row_length(m) + STEP - 1) / STEP; }

/* Pairs of voxels of a padded plane, and of what is read behind it. */
INLINE int64_t pairs(const Convolution *m) {
    int64_t padded = (m->size[1] + m->kernel[1]) * row_length(m), read = steps(m) * STEP + m->kernel[1] * row_length(m) + m->kernel[2];
    return (padded > read ? padded : read) / 2 + 1;
}

/* A plane of x as (copies, blocks of SIDE channels, pairs of voxels, channels, two voxels), the second copy moved by one voxel. What is
 * padding is zero already. */
WITH_TILES static void pair_up(const Convolution *m, const uint16_t *x, uint16_t *to) {
    int64_t row = row_length(m), inputs = m->inputs, width = m->size[2], all = pairs(m) * 2 * SIDE;
    for (int64_t copy = 0; copy < (m->kernel[2] > 1 ? 2 : 1); copy++, to += blocks(inputs) * 2 * all)
        for (int64_t h = 0; h < m->size[1]; h++) {
            int64_t start = (h + m->kernel[1] / 2) * row + m->kernel[2] / 2;
            const uint16_t *from = x + h * width * inputs;
            for (int64_t at = start - (start + copy) % 2; at < start + width; at += 2) {
                int64_t w = at - start;
                uint16_t *target = to + (at - copy) / 2 * 2 * SIDE;
                for (int64_t c = 0; c < inputs; c += SIDE, target += all) {
                    __mmask16 these = (__mmask16)(inputs - c < SIDE ? (1u << (inputs - c)) - 1 : 0xffffu);
                    __m256i first = _mm256_maskz_loadu_epi16(w >= 0 ? these : 0, from + w * inputs + c);
                    __m256i second = _mm256_maskz_loadu_epi16(w + 1 < width ? these : 0, from + (w + 1) * inputs + c);
                    _mm512_storeu_si512(target, _mm512_or_si512(_mm512_cvtepu16_epi32(first),
                                                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16)));
                }
            }
        }
}

/* A plane of dy as (blocks of SIDE channels, steps, channels, STEP voxels); places: where each voxel of the padded plane lies in dy, and -1
 * for padding. Two channels of SIDE voxels at a time. */
WITH_TILES static void turn(const Convolution *m, const uint16_t *dy, const int32_t *places, uint16_t *to) {
    int64_t count = steps(m), outputs = m->outputs, tile = SIDE * STEP;
    for (int64_t half = 0; half < 2 * count; half++) {
        __m512i place = _mm512_loadu_si512(places + half * SIDE);
        __mmask16 these = _mm512_cmpge_epi32_mask(place, _mm512_setzero_si512());
        for (int64_t c = 0; c < outputs; c += 2) {
            uint16_t *target = to + (c / SIDE * count + half / 2) * tile + c % SIDE * STEP + half % 2 * SIDE;
            if (c + 1 < outputs) {
                __m512i both = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), these, place, dy + c, 2);
                _mm256_storeu_si256((__m256i *)target, _mm512_cvtepi32_epi16(both));
                _mm256_storeu_si256((__m256i *)(target + STEP), _mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
            } else {
                for (int64_t v = 0; v < SIDE; v++) {
                    int32_t from = places[half * SIDE + v];
                    target[v] = from < 0 ? 0 : dy[from + c];
                }
            }
        }
    }
}

/* Add the products of one plane of dy with one plane of x: of all taps within the plane, for one block of either's channels. */
WITH_TILES static void multiply(const Convolution *m, const uint16_t *dy, const uint16_t *x, float *sums) {
    int64_t count = steps(m), tile = SIDE * STEP, all = pairs(m) * 2 * SIDE, copy = blocks(m->inputs) * 2 * all;
    int64_t across = m->kernel[2], taps = m->kernel[1] * across, width = blocks(m->inputs) * BLOCK, apart = width * (int64_t)sizeof(float);
    for (int64_t tap = 0; tap < taps; tap++) {
        int64_t offset = tap / across * row_length(m) + tap % across;
        const uint16_t *first = x + offset % 2 * copy + offset / 2 * 2 * SIDE, *second = first + all;
        float *c = sums + tap * blocks(m->outputs) * BLOCK * width;
        _tile_loadd(0, c, apart);
        _tile_loadd(1, c + SIDE, apart);
        _tile_loadd(2, c + SIDE * width, apart);
        _tile_loadd(3, c + SIDE * width + SIDE, apart);
        for (int64_t step = 0; step < count; step++) {
            _tile_loadd(4, dy + step * tile, 2 * STEP);
            _tile_loadd(6, first + step * tile, 4 * SIDE);
            _tile_loadd(5, dy + (count + step) * tile, 2 * STEP);
            _tile_loadd(7, second + step * tile, 4 * SIDE);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c, apart);
        _tile_stored(1, c + SIDE, apart);
        _tile_stored(2, c + SIDE * width, apart);
        _tile_stored(3, c + SIDE * width + SIDE, apart);
    }
}

/* The sums of one sample. Returns 0 where there is no memory. */
WITH_TILES static int sample_gradient(const Convolution *m, int64_t sample) {
    int64_t depth = m->size[0], half = m->kernel[0] / 2, plane = m->size[1] * m->size[2], count = steps(m);
    int64_t height = blocks(m->outputs) * BLOCK, width = blocks(m->inputs) * BLOCK, within = m->kernel[1] * m->kernel[2];
    int64_t slot = 2 * blocks(m->inputs) * 2 * pairs(m) * 2 * SIDE, all = m->kernel[0] * within * height * width;
    size_t paired = (size_t)(m->kernel[0] * slot) * sizeof(uint16_t), turned = (size_t)(height * count * STEP) * sizeof(uint16_t);
    size_t listed = (size_t)(count * STEP) * sizeof(int32_t);
    uint8_t *memory = aligned_alloc(64, (paired + turned + listed + 63) / 64 * 64);
    if (!memory) return 0;
    uint16_t *x = (uint16_t *)memory, *dy = (uint16_t *)(memory + paired);
    int32_t *places = (int32_t *)(memory + paired + turned);
    memset(memory, 0, paired + turned);
    memset(places, 0xff, listed);
    for (int64_t h = 0; h < m->size[1]; h++)
        for (int64_t w = 0; w < m->size[2]; w++) places[h * row_length(m) + w] = (int32_t)((h * m->size[2] + w) * m->outputs);
    float *sums = m->partial + sample * all;
    memset(sums, 0, (size_t)all * sizeof(float));
    Tiles before __attribute__((aligned(64))), own __attribute__((aligned(64))) = {.palette = 1};
    for (int number = 0; number < 8; number++) own.bytes[number] = 64, own.rows[number] = SIDE;
    _tile_storeconfig(&before);                     /* torch's libraries may expect theirs */
    _tile_loadconfig(&own);
    /* Plane d of x lies in slot d modulo the kernel's depth. */
    for (int64_t d = 0; d < half && d < depth; d++)
        pair_up(m, m->x + (sample * depth + d) * plane * m->inputs, x + d % m->kernel[0] * slot);
    for (int64_t d = 0; d < depth; d++) {
        int64_t next = d + half;
        if (next < depth) pair_up(m, m->x + (sample * depth + next) * plane * m->inputs, x + next % m->kernel[0] * slot);
        turn(m, m->dy + (sample * depth + d) * plane * m->outputs, places, dy);
        for (int64_t a = 0; a < m->kernel[0]; a++) {
            int64_t from = d + a - half;
            if (from < 0 || from >= depth) continue;
            for (int64_t o = 0; o < height; o += BLOCK)
                for (int64_t i = 0; i < width; i += BLOCK)
                    multiply(m, dy + o * count * STEP, x + from % m->kernel[0] * slot + i / SIDE * pairs(m) * 2 * SIDE,
                             sums + (a * within * height + o) * width + i);
        }
    }
    _tile_loadconfig(&before);
    free(memory);
    return 1;
}

/* Whether there are tiles, and the system lets this process use them. */
int32_t se_med_tiles(void) {
    static int32_t known = -1;
    if (known >= 0) return known;
    uint32_t a, b, c, d;
    known = 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    if ((d >> 22 & 1) && (d >> 24 & 1) && __builtin_cpu_supports("avx512bw")) known = syscall(SYS_arch_prctl, ASK, FEATURE) == 0;
    return known;
}

/* Fill dw. Returns 0 where there is no memory. */
int32_t se_med_weight_gradient(const Convolution *m) {
    int64_t taps = m->kernel[0] * m->kernel[1] * m->kernel[2], height = blocks(m->outputs) * BLOCK, width = blocks(m->inputs) * BLOCK;
    int done = 1;
#pragma omp parallel for schedule(static) num_threads(m->threads) reduction(&& : done)
    for (int64_t sample = 0; sample < m->samples; sample++) done = sample_gradient(m, sample) && done;
    if (!done) return 0;
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (int64_t number = 0; number < taps * m->outputs; number++) {
        const float *from = m->partial + (number / m->outputs * height + number % m->outputs) * width;
        float *to = m->dw + (number % m->outputs * taps + number / m->outputs) * m->inputs;
        for (int64_t i = 0; i < m->inputs; i++) to[i] = from[i];
        for (int64_t sample = 1; sample < m->samples; sample++)
            for (int64_t i = 0; i < m->inputs; i++) to[i] += from[sample * taps * height * width + i];
    }
    return 1;
}

#else

int32_t se_med_tiles(void) { return 0; }
int32_t se_med_weight_gradient(const Convolution *m) { (void)m; return 0; }

#endif
