// Convolutions: every way, with and without the map before it, bias and added picture; the gradients of input and kernel.

#include "harness.h"

namespace harness {
namespace {

enum { PLAIN, DOUBLED, HALVED, SINGLE };
const char* const NAMES[] = {"PLAIN", "DOUBLED", "HALVED", "SINGLE"};
const int BACKWARD[] = {PLAIN, HALVED, DOUBLED, SINGLE};  // the way that gives the gradient of the input

// Winograd's transforms add up to 16 inputs before the products and up to 9 products after them, which multiplies the rounding errors of a
// direct sum by up to 4. The largest sum here has 2600 terms, whose errors grow as its square root relative to the result: 48 roundings. For
// bfloat16 the result is rounded once and the mapped input once.
constexpr double DIRECT[] = {48 * FLOAT_ROUNDING, 2 * BFLOAT16_ROUNDING};
// Products of bfloat16: the transformed inputs and kernels are rounded too, and a transform that cancels leaves their errors: 6 roundings.
constexpr double OF_PRODUCTS = 6 * BFLOAT16_ROUNDING;

double tolerance(int low) { return low && kernels_bfloat16_products() ? OF_PRODUCTS : DIRECT[low]; }

struct Shape {
    long n, channels, outputs, height, width;
    int threads;
    std::string name() const { return text("N C O H W", {n, channels, outputs, height, width}); }
};

// The last one has more tiles than a block of the convolution and a chunk of the kernel's gradient.
const Shape SHAPES[] = {
    {0, 16, 16, 4, 4, 2},  {2, 16, 16, 0, 4, 1},  {2, 16, 16, 4, 0, 1},  {1, 1, 1, 1, 1, 1},     {1, 3, 5, 5, 4, 2},     {2, 16, 16, 4, 4, 1},
    {2, 24, 40, 5, 3, 2},  {2, 20, 17, 1, 3, 1},  {1, 33, 70, 3, 5, 3}, {1, 130, 18, 2, 3, 2}, {1, 3, 2, 10, 258, 1},
};

// Pictures (N, H, W, C) in double.
struct Picture {
    long n, height, width, channels;
    Values values;
    Picture(long n, long height, long width, long channels) : n(n), height(height), width(width), channels(channels), values(n * height * width * channels) {}
    double* pixel(long image, long i, long j) { return values.data() + ((image * height + i) * width + j) * channels; }
    const double* pixel(long image, long i, long j) const { return const_cast<Picture*>(this)->pixel(image, i, j); }
    bool inside(long i, long j) const { return i >= 0 && i < height && j >= 0 && j < width; }
};

int taps_of(int way) { return way == SINGLE ? 1 : 3; }

Picture result_of(int way, const Shape& s) {
    long height = way == DOUBLED ? 2 * s.height : way == HALVED ? s.height / 2 : s.height;
    long width = way == DOUBLED ? 2 * s.width : way == HALVED ? s.width / 2 : s.width;
    return Picture(s.n, height, width, s.outputs);
}

// Calls of(image, output place, input place, tap) for each pair of places that a tap joins: the definition of every way.
template <class Of> void joined(int way, const Picture& x, const Picture& y, Of of) {
    int taps = taps_of(way), parts = way == HALVED ? 2 : 1;
    for (long image = 0; image < y.n; image++)
        for (long i = 0; i < parts * y.height; i++)
            for (long j = 0; j < parts * y.width; j++)
                for (int a = 0; a < taps; a++)
                    for (int b = 0; b < taps; b++) {
                        long r = i + a - taps / 2, s = j + b - taps / 2;
                        bool inside = way == DOUBLED ? r >= 0 && r < 2 * x.height && s >= 0 && s < 2 * x.width : x.inside(r, s);
                        if (!inside) continue;
                        long by = way == DOUBLED ? 2 : 1;
                        of(image, i / parts, j / parts, r / by, s / by, a * taps + b);
                    }
}

// w (O, C, taps, taps)
void convolve(int way, const Picture& x, const Values& w, Picture& y) {
    int taps = taps_of(way) * taps_of(way);
    joined(way, x, y, [&](long image, long i, long j, long r, long s, int tap) {
        const double* from = x.pixel(image, r, s);
        double* to = y.pixel(image, i, j);
        for (long o = 0; o < y.channels; o++)
            for (long c = 0; c < x.channels; c++) to[o] += w[(o * x.channels + c) * taps + tap] * from[c];
    });
}

void gradients(int way, const Picture& x, const Values& w, const Picture& g, Picture& of_x, Values& of_w) {
    int taps = taps_of(way) * taps_of(way);
    joined(way, x, g, [&](long image, long i, long j, long r, long s, int tap) {
        const double *from = x.pixel(image, r, s), *at = g.pixel(image, i, j);
        double* to = of_x.pixel(image, r, s);
        for (long o = 0; o < g.channels; o++)
            for (long c = 0; c < x.channels; c++) {
                to[c] += w[(o * x.channels + c) * taps + tap] * at[o];
                of_w[(o * x.channels + c) * taps + tap] += at[o] * from[c];
            }
    });
}

Array packed(int way, const Array& weight, long channels, long outputs, bool turned, int low, int threads) {
    int taps = taps_of(way);
    long shape[] = {0, 0, 0, channels, outputs}, steps[] = {channels * taps * taps, taps * taps, taps, 1};
    const float* start = weight.floats();
    if (turned) {  // weight is (C, O, taps, taps), read from its last tap to its first
        start += taps * taps - 1;
        steps[0] = taps * taps, steps[1] = outputs * taps * taps, steps[2] = -taps, steps[3] = -1;
    }
    Array result(winograd_packed_floats(way, shape, low), 0);
    winograd_pack(way, start, steps, result.floats(), shape, low, threads);
    return result;
}

struct Case {
    int way, low;
    bool everything;  // the map before the convolution, bias and added picture
    Shape s;
    Random random{13};
    Picture prepared, expected;
    Array x, factor, constant, weight, bias, added;

    Case(int way, int low, bool everything, const Shape& s)
        : way(way), low(low), everything(everything), s(s), prepared(s.n, s.height, s.width, s.channels), expected(result_of(way, s)),
          x(random.normal(long(prepared.values.size()), low)), factor(random.normal(s.n * s.channels, 0)),
          constant(random.normal(s.n * s.channels, 0)), weight(random.normal(s.outputs * s.channels * taps_of(way) * taps_of(way), 0)),
          bias(random.normal(s.outputs, 0)), added(random.normal(long(expected.values.size()), low)) {
        Values values = x.values(), a = factor.values(), b = constant.values();
        for (size_t i = 0; i < values.size(); i++) {
            long row = long(i) / (s.height * s.width * s.channels) * s.channels + long(i) % s.channels;
            prepared.values[i] = everything ? silu(values[i] * a[row] + b[row]) : values[i];
        }
    }

    const float* given(const Array& row) const { return everything ? row.floats() : nullptr; }
    std::string kernel(const char* name) const { return std::string(name) + " " + NAMES[way]; }

    void forward(Report& report) {
        long shape[] = {s.n, s.height, s.width, s.channels, s.outputs};
        Array y(long(expected.values.size()), low), kernels = packed(way, weight, s.channels, s.outputs, false, low, s.threads);
        int status = winograd_convolve(way, x.data(), y.data(), everything ? added.data() : nullptr, shape, given(factor), given(constant),
                                       kernels.floats(), given(bias), low, s.threads);
        convolve(way, prepared, weight.values(), expected);
        Values more = added.values(), constants = bias.values();
        for (size_t i = 0; everything && i < more.size(); i++) expected.values[i] += more[i] + constants[i % s.outputs];
        report.require("winograd_convolve returns 0", s.name(), status == 0);
        report.compare(kernel("winograd_convolve"), low, s.name(), y, expected.values, tolerance(low));
    }

    void backward(Report& report) {
        Array g = random.normal(long(expected.values.size()), low), of_w(weight.size(), 0), of_x(x.size(), low);
        Picture gradient = result_of(way, s), expected_x(s.n, s.height, s.width, s.channels);
        gradient.values = g.values();
        Values expected_w(weight.size());
        gradients(way, prepared, weight.values(), gradient, expected_x, expected_w);
        int taps = taps_of(way);
        long shape[] = {s.n, s.height, s.width, s.channels, s.outputs}, steps[] = {s.channels * taps * taps, taps * taps, taps, 1};
        int status = winograd_kernel_gradient(way, x.data(), g.data(), shape, given(factor), given(constant), of_w.floats(), steps, low, s.threads);
        report.require("winograd_kernel_gradient returns 0", s.name(), status == 0);
        report.compare(kernel("winograd_kernel_gradient"), low, s.name(), of_w, expected_w, tolerance(low));
        long turned[] = {s.n, gradient.height, gradient.width, s.outputs, s.channels};
        Array kernels = packed(BACKWARD[way], weight, s.outputs, s.channels, true, low, s.threads);
        status = winograd_convolve(BACKWARD[way], g.data(), of_x.data(), nullptr, turned, nullptr, nullptr, kernels.floats(), nullptr, low, s.threads);
        report.require("winograd_convolve returns 0", s.name(), status == 0);
        report.compare(kernel("gradient of the input") , low, s.name(), of_x, expected_x.values, tolerance(low));
    }
};

}  // namespace

void check_convolutions(Report& report) {
    for (int way : {PLAIN, DOUBLED, HALVED, SINGLE})
        for (int low : {0, 1})
            for (const Shape& s : SHAPES)
                for (bool everything : {false, true}) {
                    Case one(way, low, everything, s);
                    one.forward(report);
                    if (way != HALVED) one.backward(report);  // nothing takes the gradient of HALVED
                }
}

}  // namespace harness
