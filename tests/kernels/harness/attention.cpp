// Attention and its gradients.

#include "harness.h"

namespace harness {
namespace {

// For float the scores are sums of d <= 64 products (error about sqrt(d) roundings of the largest score, 5 or so), then exp to 8e-8: 32
// roundings in all. For bfloat16 the result is rounded once and exp is good to 8e-5.
constexpr double OUTPUT[] = {32 * FLOAT_ROUNDING, BFLOAT16_ROUNDING + 5e-4};
// Products of bfloat16: weights, slopes and outputs are rounded to it before they are multiplied, two roundings more.
constexpr double OUTPUT_OF_PRODUCTS = 3 * BFLOAT16_ROUNDING;
constexpr double LSE[] = {32 * FLOAT_ROUNDING, 2e-4};

double tolerance(int low) { return low && kernels_bfloat16_products() ? OUTPUT_OF_PRODUCTS : OUTPUT[low]; }

struct Shape {
    long n, places, heads, d;
    int threads;
    long width() const { return heads * d; }
    std::string name() const { return text("N L heads d", {n, places, heads, d}); }
    long at(long image, long place, long head, long c) const { return ((image * places + place) * heads + head) * d + c; }
    // part: 0 query, 1 key, 2 value
    long packed_at(long image, long place, int part, long head, long c) const {
        return ((image * places + place) * 3 + part) * width() + head * d + c;
    }
};

const Shape SHAPES[] = {
    {0, 5, 2, 8, 1}, {1, 0, 2, 8, 1},  {1, 1, 1, 8, 1},  {2, 7, 3, 8, 2},  {1, 16, 2, 16, 1}, {1, 65, 1, 24, 1}, {2, 33, 2, 5, 3},
    {1, 70, 1, 40, 1}, {1, 131, 1, 8, 1}, {9, 20, 2, 32, 2}, {1, 9, 4, 64, 2}, {1, 5, 1, 1, 1},   {2, 17, 1, 80, 1},
};

struct Reference {
    const Shape& s;
    Values qkv, out, lse;

    Reference(const Shape& s, const Values& qkv) : s(s), qkv(qkv), out(s.n * s.places * s.width()), lse(s.n * s.heads * s.places) {
        over_queries([&](long image, long head, long query) {
            double total = 0;
            for (long key = 0; key < s.places; key++) total += std::exp(score(image, head, query, key));
            lse[row(image, head, query)] = std::log(total);
            for (long key = 0; key < s.places; key++)
                for (long c = 0; c < s.d; c++)
                    out[s.at(image, query, head, c)] += weight(image, head, query, key) * qkv[s.packed_at(image, key, 2, head, c)];
        });
    }

    void over_queries(const std::function<void(long image, long head, long query)>& of) const {
        for (long image = 0; image < s.n; image++)
            for (long head = 0; head < s.heads; head++)
                for (long query = 0; query < s.places; query++) of(image, head, query);
    }
    long row(long image, long head, long query) const { return (image * s.heads + head) * s.places + query; }
    double score(long image, long head, long query, long key) const {
        double sum = 0;
        for (long c = 0; c < s.d; c++) sum += qkv[s.packed_at(image, query, 0, head, c)] * qkv[s.packed_at(image, key, 1, head, c)];
        return sum / std::sqrt(double(s.d));
    }
    double weight(long image, long head, long query, long key) const {
        return std::exp(score(image, head, query, key) - lse[row(image, head, query)]);
    }

    // From the gradient g of the result and the result as the kernel receives it.
    Values gradient(const Values& g, const Values& result) const {
        Values of(qkv.size());
        over_queries([&](long image, long head, long query) {
            double inner = 0;
            for (long c = 0; c < s.d; c++) inner += g[s.at(image, query, head, c)] * result[s.at(image, query, head, c)];
            for (long key = 0; key < s.places; key++) {
                double p = weight(image, head, query, key), along = 0;
                for (long c = 0; c < s.d; c++) along += g[s.at(image, query, head, c)] * qkv[s.packed_at(image, key, 2, head, c)];
                double slope = p * (along - inner) / std::sqrt(double(s.d));
                for (long c = 0; c < s.d; c++) {
                    of[s.packed_at(image, query, 0, head, c)] += slope * qkv[s.packed_at(image, key, 1, head, c)];
                    of[s.packed_at(image, key, 1, head, c)] += slope * qkv[s.packed_at(image, query, 0, head, c)];
                    of[s.packed_at(image, key, 2, head, c)] += p * g[s.at(image, query, head, c)];
                }
            }
        });
        return of;
    }
};

void check(Report& report, const Shape& s, int low) {
    Random random(11);
    long shape[] = {s.n, s.places, s.heads, s.d}, count = s.n * s.places * s.width();
    Array qkv = random.normal(3 * count, low), g = random.normal(count, low);
    Array out(count, low), lse(s.n * s.heads * s.places, 0), of_qkv(3 * count, low);
    Reference reference(s, qkv.values());
    report.require("attention returns 0", s.name(), attention(qkv.data(), out.data(), lse.floats(), shape, low, s.threads) == 0);
    report.compare("attention", low, s.name(), out, reference.out, tolerance(low));
    report.compare("attention, lse", low, s.name(), lse, reference.lse, LSE[low], 1);
    Array result(reference.out, low), sums(reference.lse, 0);
    int status = attention_gradients(qkv.data(), result.data(), g.data(), sums.floats(), of_qkv.data(), shape, low, s.threads);
    report.require("attention_gradients returns 0", s.name(), status == 0);
    report.compare("attention_gradients", low, s.name(), of_qkv, reference.gradient(g.values(), result.values()), tolerance(low), 1);
}

}  // namespace

void check_attention(Report& report) {
    for (int low : {0, 1})
        for (const Shape& s : SHAPES) check(report, s, low);
}

}  // namespace harness
