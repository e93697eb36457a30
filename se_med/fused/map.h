/* A map of a U-Net with its norm, activation and gate: see norm.c, which has the formulas. */
#pragma once

#include "vectors.h"

#define WIDEST 1024        /* channels of the widest map, and units of the widest hidden layer */

enum { CHANNEL = 0, SPATIAL = 1, LARGER = 2, SUM = 3 };

typedef struct {
    int64_t samples, voxels, channels, hidden;
    int32_t format, mode, threads, width;           /* width: of the vectors, see se_med_width */
    float slope, epsilon;
    const void *x;                                  /* (samples, voxels, channels) */
    float *mean, *rstd;                             /* (samples, channels) */
    const float *weight, *bias;                     /* (channels) */
    float *slopes;                                  /* (samples, 2, channels), sums of the activation's slope and of slope times xhat */
    float *pooled;                                  /* (samples, channels), means of y */
    float *units;                                   /* (samples, hidden), what the first layer of the channel gate gives */
    float *gate;                                    /* (samples, channels), channel gates; 1 where there are none */
    const float *w1, *b1, *w2, *b2;                 /* (hidden, channels), (hidden), (channels, hidden), (channels): its layers */
    const float *w;                                 /* (channels), and w0 behind them: the voxel gates' weights */
    float *s;                                       /* (samples, voxels), voxel gates */
    const void *dz;                                 /* (samples, voxels, channels) */
    float *ds;                                      /* (samples, voxels), gradients before the sigmoid of the voxel gates */
    float *totals;                                  /* (samples, 4 channels + 1), sums of du, du xhat, d gate, d w, and d w0 */
    float *dunits, *dlogits;                        /* (samples, hidden) and (samples, channels), gradients in the channel gate */
    float *corrections;                             /* (samples, 3, channels): means of du and du xhat, and the gradient that
                                                       reaches every y through the squeeze */
    void *out;                                      /* (samples, voxels, channels): z, or d loss / d x */
    float *partial;                                 /* sums of each chunk; see the functions */
} Map;
