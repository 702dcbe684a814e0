// Vectors of float as wide as the processor has them, from and to pictures in float or bfloat16 (Low). GCC's vectors, so that one text
// serves every processor; its own instructions only where bfloat16 has some.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 16, WIDEST = 4;  // floats of a vector; vectors that products keep of a row
#elif defined(__AVX__)
constexpr int WIDTH = 8, WIDEST = 2;
#else
constexpr int WIDTH = 4, WIDEST = 4;
#endif
#if defined(__AVX512BF16__)
constexpr bool PAIRS = true;
#else
constexpr bool PAIRS = false;
#endif

typedef float vec __attribute__((vector_size(WIDTH * 4)));
typedef int32_t ints __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t words __attribute__((vector_size(WIDTH * 4)));
typedef uint16_t halves __attribute__((vector_size(WIDTH * 2)));
struct Low { uint16_t bits; };

inline long up(long n, long to) { return (n + to - 1) / to * to; }

// ---- Vectors ----

template <class V, class P> inline V get(const P* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <class V, class P> inline void put(P* p, V v) { std::memcpy(p, &v, sizeof v); }
inline vec all(float x) { return vec{} + x; }

inline vec load(const float* p) { return get<vec>(p); }
inline vec load(const Low* p) { return (vec)(__builtin_convertvector(get<halves>(p), words) << 16); }

// To the nearest, ties to even; what is no number stays none.
inline words rounded(vec v) {
    words bits = (words)v, near = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    words number = (words)(v == v);
    return (near & number) | (0x7fc0 & ~number);
}
inline void store(float* p, vec v) { put(p, v); }
inline void store(Low* p, vec v) {
#if defined(__AVX512BF16__)
    put(p, _mm512_cvtneps_pbh((__m512)v));
#else
    put(p, __builtin_convertvector(rounded(v), halves));
#endif
}

// Two values of bfloat16 in a word, the first in its lower half.
inline words paired(vec first, vec second) {
#if defined(__AVX512BF16__)
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (words)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    return rounded(first) | (rounded(second) << 16);
#endif
}

inline float load_one(const float* p) { return *p; }
inline float load_one(const Low* p) {
    uint32_t bits = (uint32_t)p->bits << 16;
    return get<float>(&bits);
}

template <class T> inline vec load_some(const T* p, long n) {
    T whole[WIDTH] = {};
    std::memcpy(whole, p, n * sizeof(T));
    return load(whole);
}
template <class T> inline void store_some(T* p, vec v, long n) {
    T whole[WIDTH];
    store(whole, v);
    std::memcpy(p, whole, n * sizeof(T));
}

// exp for SiLU: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], to about 1e-7 (Cephes' coefficients).
inline vec exponential(vec x) {
    x = x > 88.f ? all(88.f) : x;
    x = x < -87.f ? all(-87.f) : x;
    ints n = __builtin_convertvector(x * 1.44269504f + (x < 0 ? all(-0.5f) : all(0.5f)), ints);
    vec whole = __builtin_convertvector(n, vec);
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.f) * (vec)((n + 127) << 23);
}
inline vec silu(vec z) { return z / (1.f + exponential(-z)); }

// ---- Memory that threads keep from call to call ----

struct Room {
    void* memory = nullptr;
    long size = 0;
    ~Room() { std::free(memory); }
    template <class P> P* of(long count) {
        long wanted = up(count * (long)sizeof(P) + 256, 4096);
        if (wanted > size) {
            std::free(memory);
            memory = std::aligned_alloc(4096, wanted);
            size = memory ? wanted : 0;
            if (!memory) throw std::bad_alloc();
        }
        return (P*)memory;
    }
};

template <class Do> bool succeeds(Do run) {  // no exception may leave a parallel loop
    try {
        run();
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace
