// Group normalisation (Wu & He 2018) of channels-last pictures with what stands around it: silu(norm(x + offset) gain + bias), and its
// gradients. With one A and B for each picture and channel it is silu(A x + B): two passes over memory forward, two on the way back.
// Statistics and all that is in between in float.

#include <cmath>

#include "kernels.h"
#include "vectors.h"

namespace {

constexpr int TOGETHER = 4;  // vectors of channels that go through a picture together

template <class T> struct Map {  // (n, places, channels), rows of so many places
    T* data;
    long n, rows, columns, channels;
    T* pixel(long image, long place) const { return data + (image * rows * columns + place) * channels; }
    bool empty() const { return rows * columns == 0; }  // the formulas then divide by one place instead of none
};

// Calls of(image, first channel, number of channels) for pieces of all pictures, on all threads.
template <class Of> void pieces(long n, long channels, [[maybe_unused]] int threads, Of of) {
    long width = TOGETHER * WIDTH, each = (channels + width - 1) / width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long item = 0; item < n * each; item++) {
        long c = item % each * width;
        of(item / each, c, std::min(width, channels - c));
    }
}

// Calls of(image, place, first channel, channels from there on) for each vector of each pixel, on all threads.
template <class T, class Of> void every_pixel(const Map<T>& x, [[maybe_unused]] int threads, Of of) {
    long rows = x.rows, columns = x.columns, channels = x.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < x.n * rows; row++)
        for (long image = row / rows, first = row % rows * columns, place = first; place < first + columns; place++)
            for (long c = 0; c < channels; c += WIDTH) of(image, place, c, channels - c);
}

// Sums over places of what `of(place, v)` makes of vector v, a row of places at a time so that long sums lose no digits: into
// first and second (`channels` of them).
template <int V, class Of> void sums(long rows, long columns, long channels, float* first, float* second, Of of) {
    vec total[2][V] = {};
    for (long row = 0; row < rows; row++) {
        vec part[2][V] = {};
        for (long place = row * columns; place < (row + 1) * columns; place++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) of(place, v, part[0][v], part[1][v]);
        for (int v = 0; v < V; v++) total[0][v] += part[0][v], total[1][v] += part[1][v];
    }
    for (int v = 0; v < V; v++) {
        store_up_to(first + v * WIDTH, total[0][v], channels - v * WIDTH);
        store_up_to(second + v * WIDTH, total[1][v], channels - v * WIDTH);
    }
}

// Calls do_full where all of the piece's vectors are whole, else do_one for each vector.
template <class Full, class One> inline void by_vectors(long channels, Full full, One one) {
    if (channels == TOGETHER * WIDTH) full();
    else
        for (long c = 0; c < channels; c += WIDTH) one(c, std::min<long>(WIDTH, channels - c));
}

// ---- Forward ----

// Around the first pixel of each channel, so that a mean far from 0 costs no digits.
template <int V, class T> void centred_sums(const Map<const T>& x, long image, long c, long channels, float* first, float* second) {
    vec around[V] = {};
    for (int v = 0; v < V && !x.empty(); v++) around[v] = load_up_to(x.pixel(image, 0) + c + v * WIDTH, channels - v * WIDTH);
    sums<V>(x.rows, x.columns, channels, first, second, [&](long place, int v, vec& a, vec& b) {
        vec d = load_up_to(x.pixel(image, place) + c + v * WIDTH, V > 1 ? WIDTH : channels) - around[v];
        a += d;
        b += d * d;
    });
}

// The sums of a picture -> A, B, and what the way back needs: each channel's offset less its group's mean, its own mean less its
// group's, 1 / deviation.
template <class T>
void coefficients(const Map<const T>& x, long image, const float* gain, const float* bias, const float* offset, long groups, float eps,
                  float* const* out) {
    long size = x.channels / groups, places = x.empty() ? 1 : x.rows * x.columns, start = image * x.channels;
    float *scale = out[0] + start, *shift = out[1] + start, *back = out[2] + start, *apart = out[3] + start, *rate = out[4] + start;
    for (long group = 0; group < groups; group++) {
        double mean = 0, inside = 0;
        for (long c = group * size; c < (group + 1) * size; c++) {
            double first = scale[c], second = shift[c];  // the sums
            float around = x.empty() ? 0 : load_one(x.pixel(image, 0) + c);
            apart[c] = float(first / places + around + offset[start + c]);
            mean += apart[c];
            inside += second - first * first / places;
        }
        mean /= size;
        for (long c = group * size; c < (group + 1) * size; c++) {
            apart[c] -= float(mean);
            inside += double(places) * apart[c] * apart[c];
        }
        float one_by_deviation = float(1 / std::sqrt(std::max(0., inside) / (places * size) + eps));
        for (long c = group * size; c < (group + 1) * size; c++) {
            rate[c] = one_by_deviation;
            back[c] = float(offset[start + c] - mean);
            scale[c] = one_by_deviation * gain[start + c];
            shift[c] = bias[start + c] + back[c] * scale[c];
        }
    }
}

template <class T>
void norm_coefficients(const Map<const T>& x, const float* gain, const float* bias, const float* offset, long groups, float eps,
                       float* const* out, int threads) {
    pieces(x.n, x.channels, threads, [&](long image, long c, long channels) {
        float *first = out[0] + image * x.channels + c, *second = out[1] + image * x.channels + c;
        by_vectors(channels, [&] { centred_sums<TOGETHER>(x, image, c, channels, first, second); },
                   [&](long i, long some) { centred_sums<1>(x, image, c + i, some, first + i, second + i); });
    });
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long image = 0; image < x.n; image++) coefficients(x, image, gain, bias, offset, groups, eps, out);
}

template <class T>
void affine(const Map<const T>& x, const Map<T>& y, const float* scale, const float* shift, bool with_silu, int threads) {
    every_pixel(x, threads, [=](long image, long place, long c, long some) {
        long at = image * x.channels + c;
        vec z = load_up_to(x.pixel(image, place) + c, some) * load_up_to(scale + at, some) + load_up_to(shift + at, some);
        store_up_to(y.pixel(image, place) + c, with_silu ? silu<T>(z) : z, some);
    });
}

// ---- On the way back ----

template <class T> inline vec slope(vec z, bool with_silu) {  // of silu: s (1 + z (1 - s)), s the sigmoid
    if (!with_silu) return all(1.f);
    vec s = sigmoid<T>(z);
    return s * (1.f + z * (1.f - s));
}

struct Kept {  // all (n, channels)
    const float *gain, *scale, *shift, *back, *apart, *rate;
};

// With z = A x + B: the sums over places of g_z and of g_z x.
template <int V, class T>
void slope_sums(const Map<const T>& g, const Map<const T>& x, const Kept& kept, bool with_silu, long image, long c, long channels,
                float* first, float* second) {
    vec a[V], b[V];
    for (int v = 0; v < V; v++) {
        a[v] = load_up_to(kept.scale + image * x.channels + c + v * WIDTH, channels - v * WIDTH);
        b[v] = load_up_to(kept.shift + image * x.channels + c + v * WIDTH, channels - v * WIDTH);
    }
    sums<V>(x.rows, x.columns, channels, first, second, [&](long place, int v, vec& s_0, vec& s_1) {
        long some = V > 1 ? WIDTH : channels;
        vec value = load_up_to(x.pixel(image, place) + c + v * WIDTH, some);
        vec at_z = load_up_to(g.pixel(image, place) + c + v * WIDTH, some) * slope<T>(a[v] * value + b[v], with_silu);
        s_0 += at_z;
        s_1 += at_z * value;
    });
}

// From these sums P, Q and the gradients of gain, bias and offset: that of x is A g_z + P x + Q. With u = x + offset normalised to
// u_hat, m values a group and D_0, D_1 the sums over a group of gain g_z and gain g_z u_hat: dx = rate (gain g_z - D_0 / m - u_hat D_1 / m).
void gradients(const Kept& kept, long image, long channels, long groups, long places, float* const* out) {
    long size = channels / groups, start = image * channels;
    float *along = out[0] + start, *constant = out[1] + start, *of_gain = out[2] + start, *of_bias = out[3] + start, *of_offset = out[4] + start;
    for (long group = 0; group < groups; group++) {
        double d_0 = 0, d_1 = 0;
        for (long c = group * size; c < (group + 1) * size; c++) {
            long i = start + c;
            of_gain[c] = kept.rate[i] * (along[c] + kept.back[i] * of_bias[c]);  // from the sums of g_z x, of_bias those of g_z
            d_0 += kept.gain[i] * of_bias[c];
            d_1 += kept.gain[i] * of_gain[c];
        }
        d_0 /= places * size;
        d_1 /= places * size;
        for (long c = group * size; c < (group + 1) * size; c++) {
            long i = start + c;
            float rate = kept.rate[i];
            along[c] = float(-rate * rate * d_1);
            constant[c] = float(-rate * d_0 + kept.back[i] * along[c]);
            of_offset[c] = float(kept.scale[i] * of_bias[c] - places * (rate * d_0) + places * along[c] * kept.apart[i]);
        }
    }
}

template <class T>
void norm_gradients(const Map<const T>& g, const Map<const T>& x, const Kept& kept, long groups, bool with_silu, float* const* out,
                    int threads) {
    pieces(x.n, x.channels, threads, [&](long image, long c, long channels) {
        float *s_0 = out[3] + image * x.channels + c, *s_1 = out[0] + image * x.channels + c;
        by_vectors(channels, [&] { slope_sums<TOGETHER>(g, x, kept, with_silu, image, c, channels, s_0, s_1); },
                   [&](long i, long some) { slope_sums<1>(g, x, kept, with_silu, image, c + i, some, s_0 + i, s_1 + i); });
    });
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long image = 0; image < x.n; image++) gradients(kept, image, x.channels, groups, x.empty() ? 1 : x.rows * x.columns, out);
}

// A g_z + P x + Q.
template <class T>
void norm_backward(const Map<const T>& g, const Map<const T>& x, const Map<T>& gx, const float* scale, const float* shift,
                   const float* along, const float* constant, bool with_silu, int threads) {
    every_pixel(x, threads, [=](long image, long place, long c, long some) {
        long at = image * x.channels + c;
        vec value = load_up_to(x.pixel(image, place) + c, some), a = load_up_to(scale + at, some);
        vec at_z = load_up_to(g.pixel(image, place) + c, some) * slope<T>(a * value + load_up_to(shift + at, some), with_silu);
        store_up_to(gx.pixel(image, place) + c, at_z * a + value * load_up_to(along + at, some) + load_up_to(constant + at, some), some);
    });
}

// The sums over places, (n, channels).
template <class T> void place_sums(const Map<const T>& x, float* out, int threads) {
    pieces(x.n, x.channels, threads, [&](long image, long c, long channels) {
        float* to = out + image * x.channels + c;
        auto add = [&](auto vectors, long i, long some) {
            constexpr int V = decltype(vectors)::value;
            float unused[V * WIDTH];
            sums<V>(x.rows, x.columns, some, to + i, unused, [&](long place, int v, vec& sum, vec&) {
                sum += load_up_to(x.pixel(image, place) + c + i + v * WIDTH, V > 1 ? WIDTH : some);
            });
        };
        by_vectors(channels, [&] { add(std::integral_constant<int, TOGETHER>(), 0, channels); },
                   [&](long i, long some) { add(std::integral_constant<int, 1>(), i, some); });
    });
}

template <class T> Map<const T> reading(const void* x, const long* shape) { return {(const T*)x, shape[0], shape[1], shape[2], shape[3]}; }
template <class T> Map<T> writing(void* x, const long* shape) { return {(T*)x, shape[0], shape[1], shape[2], shape[3]}; }

}  // namespace

extern "C" {

void norm_coefficients(const void* x, const long* shape, const float* gain, const float* bias, const float* offset, long groups, float eps,
                       float* const* out, int low, int threads) {
    if (low) norm_coefficients(reading<Low>(x, shape), gain, bias, offset, groups, eps, out, threads);
    else norm_coefficients(reading<float>(x, shape), gain, bias, offset, groups, eps, out, threads);
}

void place_sums(const void* x, const long* shape, float* out, int low, int threads) {
    if (low) place_sums(reading<Low>(x, shape), out, threads);
    else place_sums(reading<float>(x, shape), out, threads);
}

void norm_affine(const void* x, void* y, const long* shape, const float* scale, const float* shift, int with_silu, int low, int threads) {
    if (low) affine(reading<Low>(x, shape), writing<Low>(y, shape), scale, shift, with_silu, threads);
    else affine(reading<float>(x, shape), writing<float>(y, shape), scale, shift, with_silu, threads);
}

void norm_gradients(const void* g, const void* x, const long* shape, const float* const* kept, long groups, int with_silu,
                    float* const* out, int low, int threads) {
    Kept all_kept{kept[0], kept[1], kept[2], kept[3], kept[4], kept[5]};
    if (low) norm_gradients(reading<Low>(g, shape), reading<Low>(x, shape), all_kept, groups, with_silu, out, threads);
    else norm_gradients(reading<float>(g, shape), reading<float>(x, shape), all_kept, groups, with_silu, out, threads);
}

void norm_backward(const void* g, const void* x, void* gx, const long* shape, const float* scale, const float* shift, const float* along,
                   const float* constant, int with_silu, int low, int threads) {
    if (low)
        norm_backward(reading<Low>(g, shape), reading<Low>(x, shape), writing<Low>(gx, shape), scale, shift, along, constant, with_silu, threads);
    else
        norm_backward(reading<float>(g, shape), reading<float>(x, shape), writing<float>(gx, shape), scale, shift, along, constant, with_silu, threads);
}
}
