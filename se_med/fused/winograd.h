/* Convolutions of 3 x 3 x 3 and 1 x 3 x 3 in float32 with fewer products (Winograd 1980; Lavin & Gray 2015, arXiv:1509.09308).
 *
 * A kernel of 3 gives 2 voxels from 4, g with d, by four products instead of six,
 *
 *     y = A^T [(G g) * (B^T d)],  B^T d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3),  G g = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2),
 *     A^T m = (m0 + m1 + m2, m1 - m2 - m3),
 *
 * and along three axes 8 voxels by 64 products instead of 216. The products of many tiles are products of matrices, one for each of
 * the 64 positions. The gradient of x is a convolution of the same kind, and that of the weights is, from the same formula,
 *
 *     dg = G^T [sum over tiles (A dy) * (B^T d)].
 *
 * All sums but these are within a tile, and these are made in chunks whose number the threads have no say in: the result is the same at any
 * number of threads. Numbers are added and halved only, so that rounding stays near that of the plain sum.
 *
 * This is compiled once for each kind of processor, with SIDE numbers in a vector. ROWS x 2 vectors of sums fit its registers beside what
 * they are made of, and so do SUMS x 2 of the gradient, where SUMS divides SIDE. FOUR is 4 where half as many rows of four vectors fit too,
 * which need fewer loads, and else 2.
 */
#pragma once

#include <stdlib.h>

#include "vectors.h"

#define HERE static inline __attribute__((always_inline, TARGET))

#define ROOM 98304         /* numbers that the tiles of a block may take, of a convolution and */
#define ROOM_SUMS 98304    /* of the gradient of its weights, which goes through all sums for each block */
#define MOST 96            /* tiles of a block */

typedef struct {
    int64_t samples, inputs, outputs;               /* channels of x and of y */
    int64_t size[3];
    int64_t chunks;                                 /* of partial */
    int32_t depth, threads;                         /* depth: of the kernel, 1 or 3 */
    const float *x;                                 /* (samples, size, inputs) */
    const float *w;                                 /* (taps, inputs, outputs) */
    float *u;                                       /* transformed weights, (positions, blocks of outputs, inputs, SIDE) */
    float *y;                                       /* (samples, size, outputs): written, or the gradient that is read */
    float *partial;                                 /* (chunks, positions, inputs and outputs rounded up to SIDE) */
    float *dw;                                      /* (taps, inputs, outputs) */
} Winograd;

typedef float Vector __attribute__((vector_size(4 * SIDE), aligned(4 * SIDE), may_alias));
typedef float Loose __attribute__((vector_size(4 * SIDE), aligned(4), may_alias));

/* Vectors of a map's channels. */
HERE int64_t vectors_of(int64_t channels) { return (channels + SIDE - 1) / SIDE; }

/* The 4 x 4 positions of one plane of a transformed tile are handled at once: so many of the tiles stay in the first caches. They lie as
 * (groups of ROWS tiles, vectors of channels, positions, ROWS, SIDE), one panel more between vectors lest all fall into the same places of
 * the cache. */
#define PLANES(depth) ((depth) == 3 ? 4 : 1)
#define PANEL (ROWS * SIDE)
#define NEXT (17 * PANEL)

HERE int64_t start_of(int64_t tile, int64_t vectors) { return tile / ROWS * vectors * NEXT + tile % ROWS * SIDE; }

/* Tiles of a block. */
HERE int64_t block_of(const Winograd *m, int64_t room) {
    int64_t count = room / (NEXT * (vectors_of(m->inputs) + vectors_of(m->outputs))) * ROWS;
    return count < ROWS ? ROWS : count > MOST ? MOST / ROWS * ROWS : count;
}

/* What a thread needs: zeros in place of a row outside, a plane of transformed tiles of x, and of y. */
typedef struct { float *zeros, *v, *m; } Memory;

HERE int64_t along(const Winograd *m, int axis) { return axis || m->depth == 3 ? (m->size[axis] + 1) / 2 : m->size[axis]; }
HERE int64_t tiles(const Winograd *m) { return m->samples * along(m, 0) * along(m, 1) * along(m, 2); }

/* Where a tile is: sample and first voxel of what it gives. */
typedef struct { int64_t sample, at[3]; } Place;

HERE Place place_of(const Winograd *m, int64_t tile) {
    Place place;
    int64_t w = along(m, 2), h = along(m, 1), d = along(m, 0);
    place.at[2] = tile % w * 2, tile /= w;
    place.at[1] = tile % h * 2, tile /= h;
    place.at[0] = tile % d * (m->depth == 3 ? 2 : 1);
    place.sample = tile / d;
    return place;
}

/* Go on to the next tile. */
HERE void advance(const Winograd *m, Place *place) {
    if ((place->at[2] += 2) < m->size[2]) return;
    place->at[2] = 0;
    if ((place->at[1] += 2) < m->size[1]) return;
    place->at[1] = 0;
    if ((place->at[0] += m->depth == 3 ? 2 : 1) < m->size[0]) return;
    place->at[0] = 0;
    place->sample++;
}

HERE Vector some(const float *from, int64_t count) {
    if (count >= SIDE) return *(const Loose *)from;
    Vector found = {0};
    memcpy(&found, from, (size_t)count * sizeof(float));
    return found;
}

/* B^T d along an axis, in place. */
HERE void spread(Vector *d0, Vector *d1, Vector *d2, Vector *d3) {
    Vector first = *d0 - *d2, second = *d1 + *d2, third = *d2 - *d1, fourth = *d1 - *d3;
    *d0 = first, *d1 = second, *d2 = third, *d3 = fourth;
}

/* Which slices of x a plane of the transformed tile is made of: the first, and the second with a sign. */
static const int FIRST[4] = {0, 1, 2, 1}, SECOND[4] = {2, 2, 1, 3};

/* A plane of a transformed tile of x, of one vector of channels, from the rows of its slices. count: channels of the vector that there are;
 * left, right: voxels of the rows that there are not. */
HERE void read_vector(const float *const from[2][4], int64_t apart, int64_t i, int64_t count, int left, int right, float *to, int plane,
                      const int depth) {
    Vector v[4][4];
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++) {
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            v[b][c] = (Vector){0};
            if (c < left || c >= 4 - right) continue;
            v[b][c] = some(from[0][b] + c * apart + i, count);
            if (depth == 3) {
                Vector second = some(from[1][b] + c * apart + i, count);
                v[b][c] = plane == 1 ? v[b][c] + second : v[b][c] - second;
            }
        }
        spread(&v[b][0], &v[b][1], &v[b][2], &v[b][3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        spread(&v[0][c], &v[1][c], &v[2][c], &v[3][c]);
#pragma GCC unroll 4
        for (int b = 0; b < 4; b++) *(Vector *)(to + (b * 4 + c) * PANEL) = v[b][c];
    }
}

/* A plane of a transformed tile of x. zeros: a row outside of the map. */
HERE void read_tile(const Winograd *m, Place place, int plane, const float *zeros, float *to, const int depth) {
    const float *from[2][4];
    int left = place.at[2] == 0, past = (int)(place.at[2] + 3 - m->size[2]), right = past > 0 ? past : 0;
    for (int side = 0; side < (depth == 3 ? 2 : 1); side++) {
        int64_t d = place.at[0] + (depth == 3 ? (side ? SECOND : FIRST)[plane] - 1 : 0);
        for (int b = 0; b < 4; b++) {
            int64_t h = place.at[1] + b - 1;
            int inside = d >= 0 && d < m->size[0] && h >= 0 && h < m->size[1];
            from[side][b] = inside ? m->x + (((place.sample * m->size[0] + d) * m->size[1] + h) * m->size[2] + place.at[2] - 1) * m->inputs : zeros;
        }
    }
    int64_t i = 0;
    if (left + right == 0) {
        for (; i + SIDE <= m->inputs; i += SIDE, to += NEXT) {
            if (plane == 1) read_vector(from, m->inputs, i, SIDE, 0, 0, to, 1, depth);
            else read_vector(from, m->inputs, i, SIDE, 0, 0, to, 0, depth);
        }
    }
    for (; i + SIDE <= m->inputs; i += SIDE, to += NEXT) read_vector(from, m->inputs, i, SIDE, left, right, to, plane, depth);
    if (i < m->inputs) read_vector(from, m->inputs, i, m->inputs - i, left, right, to, plane, depth);
}

/* What a plane of a tile adds to y, A^T m. */
HERE void write_tile(const Winograd *m, Place place, int plane, const float *from, const int depth) {
    int first = plane == 3 ? 1 : 0, last = depth == 3 && plane ? 2 : 1;
    for (int64_t o = 0; o < m->outputs; o += SIDE, from += NEXT) {
        int64_t count = m->outputs - o;
        Vector half[2][4];
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            Vector second = *(const Vector *)(from + (4 + c) * PANEL), third = *(const Vector *)(from + (8 + c) * PANEL);
            half[0][c] = *(const Vector *)(from + c * PANEL) + second + third;
            half[1][c] = second - third - *(const Vector *)(from + (12 + c) * PANEL);
        }
#pragma GCC unroll 2
        for (int b = 0; b < 2; b++) {
            Vector out[2] = {half[b][0] + half[b][1] + half[b][2], half[b][1] - half[b][2] - half[b][3]};
            for (int a = first; a < last; a++) {
                int64_t d = place.at[0] + a, h = place.at[1] + b;
                if (d >= m->size[0] || h >= m->size[1]) continue;
                float *row = m->y + (((place.sample * m->size[0] + d) * m->size[1] + h) * m->size[2] + place.at[2]) * m->outputs + o;
                for (int c = 0; c < 2 && place.at[2] + c < m->size[2]; c++, row += m->outputs) {
                    /* Planes 0, 1 and 2 add to the first slice; 1 to the second, from which 2 and 3 are taken. */
                    Vector sum = out[c];
                    if (plane > a) sum = a && plane > 1 ? some(row, count) - sum : some(row, count) + sum;
                    if (count >= SIDE) *(Loose *)row = sum;
                    else memcpy(row, &sum, (size_t)count * sizeof(float));
                }
            }
        }
    }
}

/* A dy along an axis. */
HERE void double_up(Vector y0, Vector y1, Vector *to, int apart) {
    to[0] = y0, to[apart] = y0 + y1, to[2 * apart] = y0 - y1, to[3 * apart] = -y1;
}

/* A plane of a transformed tile of the gradient of y. */
HERE void read_gradient(const Winograd *m, Place place, int plane, const float *zeros, float *to) {
    const float *from[2][4];
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++) {
            int64_t d = place.at[0] + a, h = place.at[1] + b, w = place.at[2];
            int inside = d < m->size[0] && h < m->size[1];
            const float *row = m->y + (((place.sample * m->size[0] + d) * m->size[1] + h) * m->size[2] + w) * m->outputs;
            from[a][b * 2] = inside ? row : zeros, from[a][b * 2 + 1] = inside && w + 1 < m->size[2] ? row + m->outputs : zeros;
        }
    for (int64_t o = 0; o < m->outputs; o += SIDE, to += NEXT) {
        Vector y[4], rows[2][4], v[16];
#pragma GCC unroll 4
        for (int b = 0; b < 4; b++) {
            y[b] = plane == 3 ? -some(from[1][b] + o, m->outputs - o) : some(from[0][b] + o, m->outputs - o);
            if (plane == 1) y[b] += some(from[1][b] + o, m->outputs - o);
            if (plane == 2) y[b] -= some(from[1][b] + o, m->outputs - o);
        }
        double_up(y[0], y[1], rows[0], 1);
        double_up(y[2], y[3], rows[1], 1);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) double_up(rows[0][c], rows[1][c], v + c, 4);
#pragma GCC unroll 16
        for (int p = 0; p < 16; p++) *(Vector *)(to + p * PANEL) = v[p];
    }
}

/* rows x vectors of the product of tiles v with weights u, (vectors, inputs, SIDE). */
HERE void product(const float *v, const float *u, int64_t inputs, float *to, const int rows, const int vectors) {
    Vector sums[ROWS][4];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) sums[r][n] = (Vector){0};
    for (int64_t first = 0; first < inputs; first += SIDE, v += NEXT) {
        int64_t count = inputs - first < SIDE ? inputs - first : SIDE;
#pragma GCC unroll 4
        for (int64_t i = 0; i < count; i++) {
            Vector weights[4];
#pragma GCC unroll 4
            for (int n = 0; n < vectors; n++) weights[n] = *(const Vector *)(u + (n * inputs + first + i) * SIDE);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                float one = v[r * SIDE + i];
#pragma GCC unroll 4
                for (int n = 0; n < vectors; n++) sums[r][n] += one * weights[n];
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) *(Vector *)(to + n * NEXT + r * SIDE) = sums[r][n];
}

/* Add to rows x vectors of the sums over all tiles of v times dm. v_group, dm_group: from one group of tiles to the next. */
HERE void product_sum(const float *v, int64_t v_group, const float *dm, int64_t dm_group, int64_t tiles, float *to, int64_t apart,
                      const int rows, const int vectors) {
    Vector sums[8][4];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) sums[r][n] = *(const Vector *)(to + r * apart + n * SIDE);
    for (int64_t first = 0; first < tiles; first += ROWS, v += v_group, dm += dm_group) {
        int64_t count = tiles - first < ROWS ? tiles - first : ROWS;
#pragma GCC unroll 4
        for (int64_t t = 0; t < count; t++) {
            Vector gradients[4];
#pragma GCC unroll 4
            for (int n = 0; n < vectors; n++) gradients[n] = *(const Vector *)(dm + n * NEXT + t * SIDE);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                float one = v[t * SIDE + r];
#pragma GCC unroll 4
                for (int n = 0; n < vectors; n++) sums[r][n] += one * gradients[n];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++) *(Vector *)(to + r * apart + n * SIDE) = sums[r][n];
}

/* One block of tiles of the convolution. */
HERE void convolve(const Winograd *m, int64_t first, int64_t count, Memory memory, const int depth) {
    int64_t ins = vectors_of(m->inputs), outs = vectors_of(m->outputs);
    Place start = place_of(m, first);
    for (int plane = 0; plane < PLANES(depth); plane++) {
        Place place = start;
        for (int64_t t = 0; t < count; t++, advance(m, &place)) read_tile(m, place, plane, memory.zeros, memory.v + start_of(t, ins), depth);
        for (int p = 0; p < 16; p++)
            for (int64_t o = 0; o < outs;) {
                const float *u = m->u + ((plane * 16 + p) * outs + o) * m->inputs * SIDE;
                int vectors = outs - o >= FOUR ? FOUR : outs - o >= 2 ? 2 : 1;
                for (int64_t t = 0; t < count; t += ROWS) {
                    const float *v = memory.v + start_of(t, ins) + p * PANEL;
                    float *to = memory.m + start_of(t, outs) + o * NEXT + p * PANEL;
                    if (vectors == 4) {
                        product(v, u, m->inputs, to, ROWS / 2, 4);
                        product(v + PANEL / 2, u, m->inputs, to + PANEL / 2, ROWS / 2, 4);
                    } else if (vectors == 2) {
                        product(v, u, m->inputs, to, ROWS, 2);
                    } else {
                        product(v, u, m->inputs, to, ROWS, 1);
                    }
                }
                o += vectors;
            }
        place = start;
        for (int64_t t = 0; t < count; t++, advance(m, &place)) write_tile(m, place, plane, memory.m + start_of(t, outs), depth);
    }
}

/* Add one block of tiles to the sums of the gradient. */
HERE void correlate(const Winograd *m, int64_t first, int64_t count, Memory memory, float *sums, const int depth) {
    int64_t ins = vectors_of(m->inputs), outs = vectors_of(m->outputs), apart = outs * SIDE;
    int64_t v_group = start_of(ROWS, ins), dm_group = start_of(ROWS, outs);
    Place start = place_of(m, first);
    for (int plane = 0; plane < PLANES(depth); plane++) {
        Place place = start;
        for (int64_t t = 0; t < count; t++, advance(m, &place)) {
            read_tile(m, place, plane, memory.zeros, memory.v + start_of(t, ins), depth);
            read_gradient(m, place, plane, memory.zeros, memory.m + start_of(t, outs));
        }
        for (int p = 0; p < 16; p++)
            for (int64_t o = 0; o < outs;) {
                const float *dm = memory.m + o * NEXT + p * PANEL;
                int vectors = outs - o >= FOUR ? FOUR : outs - o >= 2 ? 2 : 1, rows = vectors == 4 ? 4 : SUMS;
                for (int64_t i = 0; i < ins * SIDE; i += rows) {
                    const float *v = memory.v + i / SIDE * NEXT + p * PANEL + i % SIDE;
                    float *to = sums + ((plane * 16 + p) * ins * SIDE + i) * apart + o * SIDE;
                    if (vectors == 4) product_sum(v, v_group, dm, dm_group, count, to, apart, 4, 4);
                    else if (vectors == 2) product_sum(v, v_group, dm, dm_group, count, to, apart, SUMS, 2);
                    else product_sum(v, v_group, dm, dm_group, count, to, apart, SUMS, 1);
                }
                o += vectors;
            }
    }
}

/* G g along an axis: three numbers to four, apart from each other. */
HERE void lift(const Vector *g, int apart, Vector *to, int to_apart) {
    Vector even = (g[0] + g[2 * apart]) * 0.5f, odd = g[apart] * 0.5f;
    to[0] = g[0], to[to_apart] = even + odd, to[2 * to_apart] = even - odd, to[3 * to_apart] = g[2 * apart];
}

/* G^T: four numbers to three. */
HERE void lower(const Vector *u, int apart, Vector *to, int to_apart) {
    Vector even = (u[apart] + u[2 * apart]) * 0.5f, odd = (u[apart] - u[2 * apart]) * 0.5f;
    to[0] = u[0] + even, to[to_apart] = odd, to[2 * to_apart] = even + u[3 * apart];
}

/* Transformed weights of one input and SIDE outputs. */
HERE void lift_weights(const Winograd *m, int64_t i, int64_t o, const int depth) {
    const int slices = depth;
    Vector g[27], wide[36], tall[48];
    int64_t outs = vectors_of(m->outputs);
    for (int tap = 0; tap < 9 * slices; tap++) g[tap] = some(m->w + (tap * m->inputs + i) * m->outputs + o, m->outputs - o);
    for (int row = 0; row < 3 * slices; row++) lift(g + row * 3, 1, wide + row * 4, 1);
    for (int a = 0; a < slices; a++)
        for (int c = 0; c < 4; c++) lift(wide + a * 12 + c, 4, tall + a * 16 + c, 4);
    for (int q = 0; q < 16; q++) {
        Vector all[4] = {tall[q]};
        if (depth == 3) lift(tall + q, 16, all, 1);
        for (int a = 0; a < PLANES(depth); a++) *(Vector *)(m->u + (((a * 16 + q) * outs + o / SIDE) * m->inputs + i) * SIDE) = all[a];
    }
}

/* Gradients of the weights of one input and SIDE outputs, from the sums of all chunks. */
HERE void lower_gradient(const Winograd *m, int64_t i, int64_t o, const int depth) {
    const int slices = depth, positions = 16 * PLANES(depth);
    Vector u[64], deep[48], tall[36], g[27];
    int64_t ins = vectors_of(m->inputs) * SIDE, outs = vectors_of(m->outputs) * SIDE;
    for (int p = 0; p < positions; p++) {
        const float *from = m->partial + (p * ins + i) * outs + o;
        u[p] = *(const Vector *)from;
        for (int64_t chunk = 1; chunk < m->chunks; chunk++) u[p] += *(const Vector *)(from + chunk * positions * ins * outs);
    }
    for (int q = 0; q < 16; q++) {
        if (depth == 3) lower(u + q, 16, deep + q, 16);
        else deep[q] = u[q];
    }
    for (int a = 0; a < slices; a++)
        for (int c = 0; c < 4; c++) lower(deep + a * 16 + c, 4, tall + a * 12 + c, 4);
    for (int row = 0; row < 3 * slices; row++) lower(tall + row * 4, 1, g + row * 3, 1);
    for (int tap = 0; tap < 9 * slices; tap++) {
        float *to = m->dw + (tap * m->inputs + i) * m->outputs + o;
        int64_t count = m->outputs - o;
        if (count >= SIDE) *(Loose *)to = g[tap];
        else memcpy(to, &g[tap], (size_t)count * sizeof(float));
    }
}

/* What a thread needs, in one piece, which is to be freed; all of it zero. */
HERE float *memory_for(const Winograd *m, int64_t block, Memory *memory) {
    int64_t ins = vectors_of(m->inputs), outs = vectors_of(m->outputs), row = 4 * m->inputs, widest = SIDE * (row / SIDE + 1 > outs ? row / SIDE + 1 : outs);
    size_t size = (size_t)(widest + block / ROWS * NEXT * (ins + outs)) * sizeof(float);
    float *all = aligned_alloc(64, (size + 63) / 64 * 64);
    if (all) memset(all, 0, size);
    memory->zeros = all, memory->v = all + widest, memory->m = memory->v + block / ROWS * NEXT * ins;
    return all;
}

/* Fill u and y. Returns 0 where there is no memory. */
__attribute__((TARGET)) int32_t FORWARD(const Winograd *m) {
    int64_t total = tiles(m), block = block_of(m, ROOM), blocks = (total + block - 1) / block, pairs = m->inputs * vectors_of(m->outputs);
    int done = 1;
#pragma omp parallel num_threads(m->threads) reduction(&& : done)
    {
        Memory memory;
        float *all = memory_for(m, block, &memory);
        done = all != NULL;
#pragma omp for schedule(static)
        for (int64_t pair = 0; pair < pairs; pair++) {
            if (m->depth == 3) lift_weights(m, pair % m->inputs, pair / m->inputs * SIDE, 3);
            else lift_weights(m, pair % m->inputs, pair / m->inputs * SIDE, 1);
        }
#pragma omp for schedule(static)
        for (int64_t number = 0; number < blocks; number++) {
            int64_t first = number * block, count = total - first < block ? total - first : block;
            if (!all) continue;
            if (m->depth == 3) convolve(m, first, count, memory, 3);
            else convolve(m, first, count, memory, 1);
        }
        free(all);
    }
    return done;
}

/* Fill dw from x and the gradient in y. Returns 0 where there is no memory. */
__attribute__((TARGET)) int32_t GRADIENT(const Winograd *m) {
    int64_t total = tiles(m), block = block_of(m, ROOM_SUMS), each = (total + m->chunks - 1) / m->chunks, pairs = m->inputs * vectors_of(m->outputs);
    int64_t size = 16 * PLANES(m->depth) * vectors_of(m->inputs) * vectors_of(m->outputs) * SIDE * SIDE;
    int done = 1;
#pragma omp parallel num_threads(m->threads) reduction(&& : done)
    {
        Memory memory;
        float *all = memory_for(m, block, &memory);
        done = all != NULL;
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < m->chunks; chunk++) {
            int64_t last = (chunk + 1) * each < total ? (chunk + 1) * each : total;
            float *sums = m->partial + chunk * size;
            memset(sums, 0, (size_t)size * sizeof(float));
            for (int64_t first = chunk * each; first < last && all; first += block) {
                int64_t count = last - first < block ? last - first : block;
                if (m->depth == 3) correlate(m, first, count, memory, sums, 3);
                else correlate(m, first, count, memory, sums, 1);
            }
        }
#pragma omp for schedule(static)
        for (int64_t pair = 0; pair < pairs; pair++) {
            if (m->depth == 3) lower_gradient(m, pair % m->inputs, pair / m->inputs * SIDE, 3);
            else lower_gradient(m, pair % m->inputs, pair / m->inputs * SIDE, 1);
        }
        free(all);
    }
    return done;
}
