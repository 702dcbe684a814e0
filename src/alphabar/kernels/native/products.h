// Matrix products out of the cache: c (rows x vectors) = or += a b, a read element by element, b vector by vector. What is multiplied, I, is
// float, or Low: then two neighbours of k at a time, in a word, where the processor has their product. Sums are in float.

#pragma once

#include "vectors.h"

namespace {

constexpr int LANES = 16;  // columns are padded to this many

template <class T> using Multiplied = std::conditional_t<sizeof(T) == 2 && PAIRS, Low, float>;  // of what is stored as T

template <class I> struct Element;  // what is multiplied in one go
template <> struct Element<float> {
    typedef float unit;
    static inline void multiply(vec& sum, unit a, vec b) { sum += a * b; }
};
#if defined(__AVX512BF16__)
inline __m512bh repeated(int32_t a) { return (__m512bh)_mm512_set1_epi32(a); }
inline __m512bh repeated(int64_t a) { return (__m512bh)_mm512_set1_epi64(a); }
template <class U> struct Neighbours {  // of k, by twos
    typedef U unit;
    static inline void multiply(vec& sum, unit a, vec b) { sum = (vec)_mm512_dpbf16_ps((__m512)sum, repeated(a), (__m512bh)b); }
};
#else
template <class U> struct Neighbours {
    typedef U unit;
    static inline void multiply(vec&, unit, vec) {}  // never used: `Multiplied` is float
};
#endif
template <> struct Element<Low> : Neighbours<int32_t> {};
struct Pairs;  // two pairs in turns, for outputs that fill half a vector: a sum is that of two neighbours
template <> struct Element<Pairs> : Neighbours<int64_t> {};

// A vector of k: one value of each, or a pair.
inline void put_unit(float* to, vec first, vec) { store(to, first); }
inline void put_unit(int32_t* to, vec first, vec second) { put(to, paired(first, second)); }

// A vector of neighbours along k.
inline void put_row(float* to, vec v) { store(to, v); }
inline void put_row(int32_t* to, vec v) { store((Low*)to, v); }

template <class I, int M, int V, bool ADD>
inline void product(const typename Element<I>::unit* a, long a_row, long a_k, const float* b, long k, float* c, long c_row) {
    vec sum[M][V];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[m][v] = ADD ? load(c + m * c_row + v * WIDTH) : vec{};
    for (long i = 0; i < k; i++) {
        vec row[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) row[v] = load(b + (i * V + v) * WIDTH);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            typename Element<I>::unit x = a[m * a_row + i * a_k];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) Element<I>::multiply(sum[m][v], x, row[v]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(c + m * c_row + v * WIDTH, sum[m][v]);
}

template <class I, int V, bool ADD>
void product_of(const typename Element<I>::unit* a, long a_row, long a_k, const float* b, long k, float* c, long c_row, long rows) {
    constexpr int M = WIDTH == 8 ? (V == 2 ? 6 : 12) : (V == 4 ? 6 : V == 3 ? 8 : V == 2 ? 12 : 14);  // what the registers hold
    long m = 0;
    for (; m + M <= rows; m += M) product<I, M, V, ADD>(a + m * a_row, a_row, a_k, b, k, c + m * c_row, c_row);
    for (; m + 4 <= rows; m += 4) product<I, 4, V, ADD>(a + m * a_row, a_row, a_k, b, k, c + m * c_row, c_row);
    for (; m < rows; m++) product<I, 1, V, ADD>(a + m * a_row, a_row, a_k, b, k, c + m * c_row, c_row);
}

template <class I, bool ADD>
void products(int vectors, const typename Element<I>::unit* a, long a_row, long a_k, const float* b, long k, float* c, long c_row, long rows) {
    if (vectors == 4) product_of<I, 4, ADD>(a, a_row, a_k, b, k, c, c_row, rows);
    if (vectors == 3) product_of<I, 3, ADD>(a, a_row, a_k, b, k, c, c_row, rows);
    if (vectors == 2) product_of<I, 2, ADD>(a, a_row, a_k, b, k, c, c_row, rows);
    if (vectors == 1) product_of<I, 1, ADD>(a, a_row, a_k, b, k, c, c_row, rows);
}

// Outputs in panels of vectors, as even as can be.
struct Panels {
    long vectors, count;
    explicit Panels(long outputs) : vectors(up(outputs, LANES) / WIDTH), count((vectors + WIDEST - 1) / WIDEST) {}
    long first(long panel) const { return panel * vectors / count; }
    int size(long panel) const { return int(first(panel + 1) - first(panel)); }
    long of(long vector) const {
        long panel = vector * count / vectors;
        while (first(panel + 1) <= vector) panel++;
        return panel;
    }
};

template <class I> constexpr int at_once() { return sizeof(I) == 2 ? 2 : 1; }  // of k in a product

}  // namespace
