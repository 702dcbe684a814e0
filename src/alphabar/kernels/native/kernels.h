// The exported functions: the Python side, the sources and the tests' harness agree on these declarations.
//
// Pictures are (N, H, W, C) in memory, float, or bfloat16 where `low` is 1. `shape` is N, H, W, C, and O where a function has other output
// channels. All other arrays are float. `threads` is the number of OpenMP threads, at least 1; a build without OpenMP uses one. A function
// that returns int returns 0, or 1 where it could not allocate its scratch memory.

#pragma once

extern "C" {

// ---- The build ----

int kernels_openmp(void);             // the version of OpenMP as a date (201511), or 0 for a build without OpenMP
int kernels_vector_width(void);       // floats in a vector: 4, 8 or 16
int kernels_bfloat16_products(void);  // 1 where products of bfloat16 are computed by the processor's own instruction

// ---- Group normalisation; gain, bias, offset and each array of `out` and `kept` are (N, C) ----

void norm_coefficients(const void* x, const long* shape, const float* gain, const float* bias, const float* offset, long groups, float eps,
                       float* const* out, int low, int threads);
void norm_affine(const void* x, void* y, const long* shape, const float* scale, const float* shift, int with_silu, int low, int threads);
void norm_gradients(const void* g, const void* x, const long* shape, const float* const* kept, long groups, int with_silu,
                    float* const* out, int low, int threads);
void norm_backward(const void* g, const void* x, void* gx, const long* shape, const float* scale, const float* shift, const float* along,
                   const float* constant, int with_silu, int low, int threads);
void place_sums(const void* x, const long* shape, float* out, int low, int threads);

// ---- Attention; qkv and its gradient (N, L, 3, heads, d), out and g (N, L, heads, d), lse (N, heads, L); shape N, L, heads, d ----

int attention(const void* qkv, void* out, float* lse, const long* shape, int low, int threads);
int attention_gradients(const void* qkv, const void* out, const void* g, const float* lse, void* gqkv, const long* shape, int low,
                        int threads);

// ---- Convolutions; y, added and g (N, H', W', O), w (O, C, taps, taps) with its strides `steps`; way: 0 PLAIN, 1 DOUBLED, 2 HALVED,
// 3 SINGLE; H' and W' are H and W, twice them (DOUBLED) or half of them, rounded down (HALVED). HALVED adds the bias once to each sum of 2x2.
// `factor` and `constant` (N, C), `bias` (O,) and `added` may be null. The gradient of a kernel exists for PLAIN, DOUBLED and SINGLE. ----

long winograd_packed_floats(int way, const long* shape, int low);
void winograd_pack(int way, const float* w, const long* steps, float* packed, const long* shape, int low, int threads);
int winograd_convolve(int way, const void* x, void* y, const void* added, const long* shape, const float* factor, const float* constant,
                      const float* packed, const float* bias, int low, int threads);
int winograd_kernel_gradient(int way, const void* x, const void* g, const long* shape, const float* factor, const float* constant, float* w,
                             const long* steps, int low, int threads);
}
