// What this build of the kernels contains.

#include "kernels.h"
#include "vectors.h"

extern "C" {

int kernels_openmp(void) {
#if defined(_OPENMP)
    return _OPENMP;
#else
    return 0;
#endif
}

int kernels_vector_width(void) { return WIDTH; }

int kernels_bfloat16_products(void) { return PAIRS; }
}
