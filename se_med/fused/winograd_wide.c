/* winograd.h for processors with AVX-512. */
#include "vectors.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define SIDE 16
#define ROWS 12
#define SUMS 8
#define FOUR 4
#define TARGET WIDEST_TARGET
#define FORWARD se_med_winograd_forward_wide
#define GRADIENT se_med_winograd_gradient_wide
#include "winograd.h"

#endif
