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
#if !defined(__clang__)  // GCC before 13 warns about its own header (its bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
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

// What keeps many vectors in registers through a loop: the compiler spills some of them where it inlines it into more code.
#define ALONE __attribute__((noinline))

inline long up(long n, long to) { return (n + to - 1) / to * to; }

// ---- Vectors ----

template <class V, class P> inline V get(const P* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <class V, class P> inline void put(P* p, V v) { std::memcpy(p, &v, sizeof v); }
inline vec all(float x) { return vec{} + x; }

inline vec load(const float* p) { return get<vec>(p); }
inline vec load(const Low* p) {
#if defined(__AVX512F__)
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)get<halves>(p)), 16);  // which the compiler does by halves
#else
    return (vec)(__builtin_convertvector(get<halves>(p), words) << 16);
#endif
}

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
    const words turn = {0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007,
                        0x180008, 0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f};  // of both halves in turns
    return (words)_mm512_permutexvar_epi16((__m512i)turn, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
#else
    return rounded(first) | (rounded(second) << 16);
#endif
}

inline float load_one(const float* p) { return *p; }
inline float load_one(const Low* p) {
    uint32_t bits = (uint32_t)p->bits << 16;
    return get<float>(&bits);
}

// The first n of a vector, n < WIDTH; those behind are 0, and nothing is read or written there.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline vec load_some(const float* p, long n) { return (vec)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
inline vec load_some(const Low* p, long n) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((1u << n) - 1, p)), 16);
}
inline void store_some(float* p, vec v, long n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
inline void store_some(Low* p, vec v, long n) {
    halves whole;
    store((Low*)&whole, v);
    if (n == WIDTH / 2) _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128((__m256i)whole));  // masked ones are slow on some processors
    else _mm256_mask_storeu_epi16(p, (1u << n) - 1, (__m256i)whole);
}
#else
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
#endif
template <class T> inline vec load_up_to(const T* p, long n) { return n >= WIDTH ? load(p) : load_some(p, n); }
template <class T> inline void store_up_to(T* p, vec v, long n) {
    if (n >= WIDTH) store(p, v);
    else store_some(p, v, n);
}

// The first halves of two vectors, their values in turns; and a vector whose first half are the sums of two neighbours each.
inline words in_turns(words a, [[maybe_unused]] words b) {
#if defined(__AVX512F__)
    const words turn = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    return (words)_mm512_permutex2var_epi32((__m512i)a, (__m512i)turn, (__m512i)b);
#else
    return a;  // never used: no pairs are multiplied
#endif
}
inline vec neighbours_added(vec v) {
#if defined(__AVX512F__)
    const words even = {0, 2, 4, 6, 8, 10, 12, 14};
    vec sums = v + (vec)_mm512_permute_ps((__m512)v, 0xb1);
    return (vec)_mm512_maskz_permutexvar_ps(0xff, (__m512i)even, (__m512)sums);
#else
    return v;  // never used
#endif
}

#if defined(__AVX512F__)
// Rows of four words, one for each lane, and the four vectors of their words.
struct Fours {
    words word[4];

    template <class At> void read(At at) {  // at(lane): where its row is, or null for zeros
        auto row = [&](long i) { return at(i) ? _mm_loadu_si128((const __m128i*)at(i)) : _mm_setzero_si128(); };
        for (int i = 0; i < 4; i++) {
            __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(row(i)), row(i + 4), 1);
            word[i] = (words)_mm512_inserti32x4(_mm512_inserti32x4(two, row(i + 8), 2), row(i + 12), 3);
        }
        turn();
    }

    template <class At> void write(At at) {  // null: nowhere
        turn();
        auto row = [&](long i, __m128i values) { if (at(i)) _mm_storeu_si128((__m128i*)at(i), values); };
        for (int i = 0; i < 4; i++) {
            __m512i rows = (__m512i)word[i];
            row(i, _mm512_castsi512_si128(rows)), row(i + 4, _mm512_extracti32x4_epi32(rows, 1));
            row(i + 8, _mm512_extracti32x4_epi32(rows, 2)), row(i + 12, _mm512_extracti32x4_epi32(rows, 3));
        }
    }

    void turn() {  // of rows i, i + 4, i + 8, i + 12 in vector i, and back
        __m512i a = _mm512_unpacklo_epi32((__m512i)word[0], (__m512i)word[1]), b = _mm512_unpackhi_epi32((__m512i)word[0], (__m512i)word[1]);
        __m512i c = _mm512_unpacklo_epi32((__m512i)word[2], (__m512i)word[3]), d = _mm512_unpackhi_epi32((__m512i)word[2], (__m512i)word[3]);
        word[0] = (words)_mm512_unpacklo_epi64(a, c), word[1] = (words)_mm512_unpackhi_epi64(a, c);
        word[2] = (words)_mm512_unpacklo_epi64(b, d), word[3] = (words)_mm512_unpackhi_epi64(b, d);
    }
};
#endif

inline vec larger(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}
inline float total_of(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += v[i];
    return sum;
#endif
}

// 2^x, to be rounded to T at last: a power of two times a polynomial on [-1/2, 1/2], fitted to the least largest relative error: 8e-8 for
// float, beyond +-126 as there, or 0; 8e-5 for bfloat16, whose own is up to 4e-3.
template <class T> inline vec power_of_two(vec x) {
#if defined(__AVX512F__)
    if (sizeof(T) == 4) x = (vec)_mm512_min_ps(_mm512_set1_ps(126.f), (__m512)x);  // what is no number stays none
    vec whole = (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    x = x > 126.f ? all(126.f) : x;
    x = x < -126.f ? all(-126.f) : x;
    ints n = __builtin_convertvector(x + (x < 0 ? all(-0.5f) : all(0.5f)), ints);
    vec whole = __builtin_convertvector(n, vec);
#endif
    vec f = x - whole, p;
    if (sizeof(T) == 4) {
        p = 1.3276471e-3f * f + 9.6755413e-3f;
        p = p * f + 5.5507133e-2f;
        p = p * f + 2.4022120e-1f;
        p = p * f + 6.9314695e-1f;
        p = p * f + 1.f;
    } else {
        p = 5.517102e-2f * f + 2.4260953e-1f;
        p = p * f + 6.9326095e-1f;
        p = p * f + 9.9992817e-1f;
    }
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return p * (vec)((n + 127) << 23);
#endif
}
constexpr float LOG2_E = 1.44269504f;

// 1 / v to about 1e-7, or for bfloat16 6e-5.
template <class T> inline vec reciprocal(vec v) {
#if defined(__AVX512F__)
    vec r = (vec)_mm512_rcp14_ps((__m512)v);
    return sizeof(T) == 4 ? r * (2.f - v * r) : r;  // a step of Newton's
#else
    return 1.f / v;
#endif
}
template <class T> inline vec sigmoid(vec z) { return reciprocal<T>(1.f + power_of_two<T>(z * -LOG2_E)); }
template <class T> inline vec silu(vec z) { return z * sigmoid<T>(z); }

// ---- Memory that threads keep from call to call ----

// A buffer that grows at once and shrinks late. Layers of different sizes take turns, so a buffer that followed each request would be
// allocated again at each layer. Of every PERIOD requests the largest is remembered; a buffer more than four times as large as that is
// freed. A thread holds at most four times what its last PERIOD requests needed, and nothing once it has ended.
class Scratch {
  public:
    static constexpr long PERIOD = 1024, EXCESS = 4, PAGE = 4096;

    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(memory); }

    long bytes() const { return size; }

    // Room for `count` values, valid until the next request. Throws bad_alloc.
    template <class P> P* of(long count) {
        long needed = up(count * (long)sizeof(P) + 256, PAGE);
        largest = std::max(largest, needed);
        if (needed > size) allocate(needed);
        if (++requests == PERIOD) {
            if (size > EXCESS * largest) allocate(largest);
            requests = largest = 0;
        }
        return (P*)memory;
    }

  private:
    void* memory = nullptr;
    long size = 0, largest = 0, requests = 0;

    void allocate(long needed) {
        std::free(memory);
        memory = std::aligned_alloc(PAGE, needed);
        size = memory ? needed : 0;
        if (!memory) throw std::bad_alloc();
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
