// The processor's instructions for bfloat16 (AVX512-BF16), emulated, so that the kernels that use them are tested on a processor with the
// other AVX-512 instructions. It is included before all else by the compiler's option -include.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AVX512BF16__ 1

namespace emulated {

inline uint16_t rounded(float value) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float widened(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline __m256bh narrow(__m512 values) {
    float in[16];
    uint16_t out[16];
    __m256bh result;
    std::memcpy(in, &values, sizeof in);
    for (int i = 0; i < 16; i++) out[i] = rounded(in[i]);
    std::memcpy(&result, out, sizeof out);
    return result;
}

inline __m512bh narrow_both(__m512 high, __m512 low) {
    __m256bh halves[2] = {narrow(low), narrow(high)};
    __m512bh result;
    std::memcpy(&result, halves, sizeof result);
    return result;
}

inline __m512 add_products(__m512 sum, __m512bh a, __m512bh b) {
    float total[16];
    uint16_t first[32], second[32];
    std::memcpy(total, &sum, sizeof total);
    std::memcpy(first, &a, sizeof first);
    std::memcpy(second, &b, sizeof second);
    for (int i = 0; i < 32; i++) total[i / 2] += widened(first[i]) * widened(second[i]);
    std::memcpy(&sum, total, sizeof sum);
    return sum;
}

}  // namespace emulated

#define _mm512_cvtneps_pbh emulated::narrow
#define _mm512_cvtne2ps_pbh emulated::narrow_both
#define _mm512_dpbf16_ps emulated::add_products
