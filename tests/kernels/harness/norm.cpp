// Group normalisation: statistics, the affine map with SiLU, gradients, and sums over places.

#include "harness.h"

namespace harness {
namespace {

constexpr double EPS = 1e-5;

// A coefficient is a handful of float operations on sums over at most 100 places, of which each operation rounds once: 16 roundings. With
// bfloat16 pictures the coefficients are still float.
constexpr double COEFFICIENTS = 16 * FLOAT_ROUNDING;
// exp and 1 / v are approximated to 8e-8 and 1e-7, and their relative errors add up with those of the products: 16 roundings. For bfloat16
// the result is rounded once, and exp and 1 / v are good to 8e-5 and 6e-5.
constexpr double PICTURE[] = {16 * FLOAT_ROUNDING, BFLOAT16_ROUNDING + 5e-4};
// Sums of slopes: for bfloat16 the errors of exp and 1 / v (1.4e-4) do not average out, and sums here have few terms.
constexpr double GRADIENTS[] = {16 * FLOAT_ROUNDING, 3e-4};

struct Shape {
    long n, channels, groups, height, width;
    int threads;
    long places() const { return height * width; }
    long rows() const { return n * channels; }
    long pixels() const { return n * places() * channels; }
    std::string name() const { return text("N C groups H W", {n, channels, groups, height, width}); }
};

const Shape SHAPES[] = {
    {0, 8, 2, 3, 3, 2}, {2, 8, 2, 0, 4, 1}, {1, 1, 1, 1, 1, 1},  {5, 24, 8, 7, 6, 2},  {2, 5, 1, 3, 5, 1},   {1, 64, 4, 5, 3, 1},
    {2, 96, 8, 4, 4, 2}, {1, 48, 3, 1, 9, 3}, {2, 40, 40, 3, 2, 1}, {1, 16, 4, 9, 1, 2}, {3, 33, 11, 2, 5, 2}, {1, 130, 2, 3, 3, 1},
};

// The quantities of the definition, all in double.
struct Reference {
    const Shape& s;
    Values x, gain, bias, offset;
    Values scale, shift, back, apart, rate;  // what norm_coefficients gives

    Reference(const Shape& s, const Values& x, const Values& gain, const Values& bias, const Values& offset)
        : s(s), x(x), gain(gain), bias(bias), offset(offset), scale(s.rows()), shift(s.rows()), back(s.rows()), apart(s.rows()), rate(s.rows()) {
        for (long image = 0; image < s.n; image++)
            for (long group = 0; group < s.groups; group++) statistics(image, group);
    }

    long size() const { return s.channels / s.groups; }
    double value(long image, long place, long c) const { return x[(image * s.places() + place) * s.channels + c] + offset[image * s.channels + c]; }

    // By how much the normalisation and its gradients multiply rounding errors. A group of one value has the largest, 1 / EPS.
    double condition() const {
        double result = 1;
        for (long i = 0; i < s.rows(); i++) result = std::max({result, std::abs(back[i] * rate[i]), rate[i] * rate[i]});
        return result;
    }

    void over_group(long group, const std::function<void(long place, long c)>& of) const {
        for (long place = 0; place < s.places(); place++)
            for (long c = group * size(); c < (group + 1) * size(); c++) of(place, c);
    }

    void statistics(long image, long group) {
        double count = double(s.places() * size()), mean = 0, variance = 0;
        over_group(group, [&](long place, long c) { mean += value(image, place, c) / count; });
        over_group(group, [&](long place, long c) { variance += std::pow(value(image, place, c) - mean, 2) / count; });
        for (long c = group * size(); c < (group + 1) * size(); c++) {
            long i = image * s.channels + c;
            double channel_mean = 0;
            for (long place = 0; place < s.places(); place++) channel_mean += value(image, place, c) / double(s.places());
            rate[i] = 1 / std::sqrt(variance + EPS);
            scale[i] = rate[i] * gain[i];
            back[i] = offset[i] - mean;
            shift[i] = bias[i] + back[i] * scale[i];
            apart[i] = channel_mean - mean;
        }
    }
};

// Gradients of y = act(gain u_hat + bias), u_hat = rate (x + offset - mean).
struct Gradients {
    Values along, constant, of_gain, of_bias, of_offset, of_x, offset_terms;

    Gradients(const Reference& r, const Values& g, bool with_silu)
        : along(r.s.rows()), constant(r.s.rows()), of_gain(r.s.rows()), of_bias(r.s.rows()), of_offset(r.s.rows()), of_x(r.s.pixels()),
          offset_terms(r.s.rows()) {
        for (long image = 0; image < r.s.n; image++)
            for (long group = 0; group < r.s.groups; group++) of_group(r, g, with_silu, image, group);
    }

    void of_group(const Reference& r, const Values& g, bool with_silu, long image, long group) {
        double count = double(r.s.places() * r.size()), d_0 = 0, d_1 = 0;
        auto row = [&](long c) { return image * r.s.channels + c; };
        auto pixel = [&](long place, long c) { return (image * r.s.places() + place) * r.s.channels + c; };
        auto hat = [&](long place, long c) { return r.rate[row(c)] * (r.x[pixel(place, c)] + r.back[row(c)]); };
        auto at_z = [&](long place, long c) {
            double z = r.gain[row(c)] * hat(place, c) + r.bias[row(c)];
            return g[pixel(place, c)] * (with_silu ? silu_slope(z) : 1);
        };
        r.over_group(group, [&](long place, long c) {
            of_gain[row(c)] += at_z(place, c) * hat(place, c);
            of_bias[row(c)] += at_z(place, c);
            d_0 += r.gain[row(c)] * at_z(place, c) / count;
            d_1 += r.gain[row(c)] * at_z(place, c) * hat(place, c) / count;
        });
        r.over_group(group, [&](long place, long c) {
            double of_one = r.rate[row(c)] * (r.gain[row(c)] * at_z(place, c) - d_0 - hat(place, c) * d_1);
            of_x[pixel(place, c)] = of_one;
            of_offset[row(c)] += of_one;
            offset_terms[row(c)] += std::abs(r.scale[row(c)] * at_z(place, c)) + std::abs(r.rate[row(c)] * d_0);
        });
        for (long c = group * r.size(); r.s.places() && c < (group + 1) * r.size(); c++) {
            along[row(c)] = -r.rate[row(c)] * r.rate[row(c)] * d_1;
            constant[row(c)] = -r.rate[row(c)] * d_0 + r.back[row(c)] * along[row(c)];
        }
    }
};

double largest(const Values& values) {
    double result = 0;
    for (double value : values) result = std::max(result, std::abs(value));
    return result;
}

void check_coefficients(Report& report, const Shape& s, int low, const Array& x, const Reference& r) {
    long shape[] = {s.n, s.height, s.width, s.channels};
    std::vector<Array> out(5, Array(0, 0));
    std::vector<float*> pointers;
    for (Array& one : out) pointers.push_back((one = Array(s.rows(), 0)).floats());
    Array gain(r.gain, 0), bias(r.bias, 0), offset(r.offset, 0);
    norm_coefficients(x.data(), shape, gain.floats(), bias.floats(), offset.floats(), s.groups, float(EPS), pointers.data(), low, s.threads);
    const Values* expected[] = {&r.scale, &r.shift, &r.back, &r.apart, &r.rate};
    if (s.places() == 0) {  // no definition then, but finite numbers
        for (const Array& one : out)
            for (double value : one.values()) report.require("norm_coefficients without places", s.name(), std::isfinite(value));
        return;
    }
    for (int i = 0; i < 5; i++)
        report.compare("norm_coefficients", low, s.name(), out[i], *expected[i], COEFFICIENTS, i == 3 ? largest(r.back) : 0);
}

void check_affine(Report& report, const Shape& s, int low, bool with_silu, const Array& x, Random& random) {
    long shape[] = {s.n, s.height, s.width, s.channels};
    Array y(s.pixels(), low), scale = random.normal(s.rows(), 0), shift = random.normal(s.rows(), 0);
    norm_affine(x.data(), y.data(), shape, scale.floats(), shift.floats(), with_silu, low, s.threads);
    Values expected(s.pixels()), values = x.values(), a = scale.values(), b = shift.values();
    for (long i = 0; i < s.pixels(); i++) {
        long row = i / (s.places() * s.channels) * s.channels + i % s.channels;
        double z = values[i] * a[row] + b[row];
        expected[i] = with_silu ? silu(z) : z;
    }
    report.compare("norm_affine", low, s.name(), y, expected, PICTURE[low]);
}

void check_gradients(Report& report, const Shape& s, int low, bool with_silu, const Array& x, const Reference& r, Random& random) {
    long shape[] = {s.n, s.height, s.width, s.channels};
    Array g = random.normal(s.pixels(), low), gx(s.pixels(), low);
    Array kept[] = {Array(r.gain, 0), Array(r.scale, 0), Array(r.shift, 0), Array(r.back, 0), Array(r.apart, 0), Array(r.rate, 0)};
    Array out[] = {Array(s.rows(), 0), Array(s.rows(), 0), Array(s.rows(), 0), Array(s.rows(), 0), Array(s.rows(), 0)};
    const float* kept_pointers[6];
    float* out_pointers[5];
    for (int i = 0; i < 6; i++) kept_pointers[i] = kept[i].floats();
    for (int i = 0; i < 5; i++) out_pointers[i] = out[i].floats();
    norm_gradients(g.data(), x.data(), shape, kept_pointers, s.groups, with_silu, out_pointers, low, s.threads);
    Gradients expected(r, g.values(), with_silu);
    const Values* rows[] = {&expected.along, &expected.constant, &expected.of_gain, &expected.of_bias, &expected.of_offset};
    double condition = r.condition(), terms = largest(expected.offset_terms) * condition;
    for (int i = 0; i < 5; i++)  // all but that of bias are sums that cancel
        report.compare("norm_gradients", low, s.name(), out[i], *rows[i], GRADIENTS[low], i == 3 ? largest(expected.of_bias) * condition : terms);
    Array along(expected.along, 0), constant(expected.constant, 0);
    norm_backward(g.data(), x.data(), gx.data(), shape, kept[1].floats(), kept[2].floats(), along.floats(), constant.floats(), with_silu, low,
                  s.threads);
    report.compare("norm_backward", low, s.name(), gx, expected.of_x, PICTURE[low], largest(r.scale) * condition);
}

void check_sums(Report& report, const Shape& s, int low, const Array& x) {
    long shape[] = {s.n, s.height, s.width, s.channels};
    Array sums(s.rows(), 0);
    place_sums(x.data(), shape, sums.floats(), low, s.threads);
    Values expected(s.rows()), values = x.values();
    for (long i = 0; i < s.pixels(); i++) expected[i / (s.places() * s.channels) * s.channels + i % s.channels] += values[i];
    report.compare("place_sums", low, s.name(), sums, expected, COEFFICIENTS);
}

}  // namespace

void check_norm(Report& report) {
    for (int low : {0, 1})
        for (const Shape& s : SHAPES) {
            Random random(7);
            Array x = random.normal(s.pixels(), low, 3), gain = random.normal(s.rows(), 0), bias = random.normal(s.rows(), 0),
                  offset = random.normal(s.rows(), 0);
            Reference reference(s, x.values(), gain.values(), bias.values(), offset.values());
            check_coefficients(report, s, low, x, reference);
            check_sums(report, s, low, x);
            for (bool with_silu : {false, true}) {
                check_affine(report, s, low, with_silu, x, random);
                check_gradients(report, s, low, with_silu, x, reference, random);
            }
        }
}

}  // namespace harness
