// Compares every exported kernel with naive loops: one line a kernel, exit status 1 if an error exceeds its tolerance.

#include "harness.h"

int main() {
    std::printf("OpenMP %d, vectors of %d floats, %s products of bfloat16\n", kernels_openmp(), kernels_vector_width(),
                kernels_bfloat16_products() ? "with" : "without");
    harness::Report report;
    harness::check_norm(report);
    harness::check_attention(report);
    harness::check_convolutions(report);
    harness::check_scratch(report);
    return report.finish() ? 0 : 1;
}
