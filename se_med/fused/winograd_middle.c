/* winograd.h for processors with AVX2. */
#include "vectors.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define SIDE 8
#define ROWS 6
#define SUMS 4
#define FOUR 2
#define TARGET target("avx2,fma")
#define FORWARD se_med_winograd_forward_middle
#define GRADIENT se_med_winograd_gradient_middle
#include "winograd.h"

#endif
