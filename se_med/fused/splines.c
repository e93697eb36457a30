/* Coefficients of the cubic splines through the voxels of a volume, mirrored at its last voxels: a recursive filter forth and back along
 * each axis (Unser, Aldroubi, Eden 1993, B-spline signal processing, IEEE Transactions on Signal Processing 41).
 */
#include <math.h>

#include "vectors.h"

#define LINES 16           /* that are filtered at once */
#define HORIZON 16         /* voxels after which a mirrored one counts less than rounding */

typedef struct {
    int64_t length, inner;                          /* of an axis, and numbers between two neighbours on it */
    int64_t lines;                                  /* all of them */
    int32_t width;
    float *values;                                  /* contiguous; filtered where they are */
    float *room;                                    /* (length, LINES) */
} Splines;

INLINE void filter_of(const Splines *m, int64_t number) {
    const float pole = sqrtf(3.0f) - 2.0f, gain = 6.0f;
    int64_t n = m->length, count = m->lines - number * LINES < LINES ? m->lines - number * LINES : LINES, start[LINES];
    float *room = m->room, first[LINES] = {0.0f};
    for (int64_t k = 0; k < count; k++) {
        int64_t line = number * LINES + k;
        start[k] = line / m->inner * m->inner * n + line % m->inner;
    }
    int together = count == LINES && start[LINES - 1] == start[0] + LINES - 1;
    for (int64_t i = 0; i < n; i++) {
        if (together) memcpy(room + i * LINES, m->values + start[0] + i * m->inner, LINES * sizeof(float));
        else for (int64_t k = 0; k < count; k++) room[i * LINES + k] = m->values[start[k] + i * m->inner];
    }
    float power = 1.0f;
    for (int64_t i = 0; i < HORIZON; i++) { /* the mirrored voxels before the first one */
        int64_t period = 2 * n - 2, at = i % period;
        const float *voxels = room + (at < n ? at : period - at) * LINES;
        for (int64_t k = 0; k < LINES; k++) first[k] += power * gain * voxels[k];
        power *= pole;
    }
    for (int64_t k = 0; k < LINES; k++) room[k] = first[k];
    for (int64_t i = 1; i < n; i++)
        for (int64_t k = 0; k < LINES; k++) room[i * LINES + k] = gain * room[i * LINES + k] + pole * room[(i - 1) * LINES + k];
    float *last = room + (n - 1) * LINES;
    for (int64_t k = 0; k < LINES; k++) last[k] = pole / (pole * pole - 1.0f) * (last[k] + pole * last[k - LINES]);
    for (int64_t i = n - 2; i >= 0; i--)
        for (int64_t k = 0; k < LINES; k++) room[i * LINES + k] = pole * (room[(i + 1) * LINES + k] - room[i * LINES + k]);
    for (int64_t i = 0; i < n; i++) {
        if (together) memcpy(m->values + start[0] + i * m->inner, room + i * LINES, LINES * sizeof(float));
        else for (int64_t k = 0; k < count; k++) m->values[start[k] + i * m->inner] = room[i * LINES + k];
    }
}

#define ALONE(name, m, number) name##_of(m, number);

KERNEL(filter, Splines, ALONE)

/* Along one axis of two voxels or more, on one thread. */
void se_med_spline_filter(const Splines *m) {
    for (int64_t number = 0; number * LINES < m->lines; number++) filter(m, number);
}
