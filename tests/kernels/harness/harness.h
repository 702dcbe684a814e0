// Arrays, random numbers and the report that the checks of all kernels share.
//
// Each check calls a kernel and a naive loop in double on the same inputs, already rounded to the type that the kernel reads, and compares
// them by max |kernel - loop| / max |loop|. Arrays are allocated at their exact size, so that the address sanitizer sees each access beyond
// them, and outputs start as NaN, so that a value that is never written is an error.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

namespace harness {

typedef std::vector<double> Values;

// The largest relative error of a rounding to the nearest: float keeps 24 bits, bfloat16 keeps 8.
constexpr double FLOAT_ROUNDING = 1. / (1 << 24), BFLOAT16_ROUNDING = 1. / (1 << 8);

inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float from_bfloat16(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

// `count` values in float or bfloat16.
class Array {
  public:
    Array(long count, int low) : count(count), low(low), memory((unsigned char*)std::malloc(bytes()), std::free) {
        for (long i = 0; i < count; i++) set(i, std::numeric_limits<double>::quiet_NaN());
    }
    Array(const Values& values, int low) : Array(long(values.size()), low) {
        for (long i = 0; i < count; i++) set(i, values[i]);
    }

    void* data() const { return memory.get(); }
    float* floats() const { return (float*)memory.get(); }
    long size() const { return count; }

    Values values() const {
        Values result(count);
        for (long i = 0; i < count; i++) result[i] = low ? from_bfloat16(((uint16_t*)data())[i]) : floats()[i];
        return result;
    }

  private:
    long count;
    int low;
    std::shared_ptr<unsigned char> memory;

    size_t bytes() const { return size_t(count) * (low ? 2 : 4); }
    void set(long i, double value) {
        float rounded = float(value);
        if (low) ((uint16_t*)data())[i] = std::isnan(value) ? 0x7fc0 : to_bfloat16(rounded);
        else floats()[i] = rounded;
    }
};

class Random {
  public:
    explicit Random(unsigned seed) : engine(seed) {}
    Array normal(long count, int low, double mean = 0) {
        Values values(count);
        for (double& value : values) value = mean + distribution(engine);
        return Array(values, low);
    }

  private:
    std::mt19937 engine;
    std::normal_distribution<double> distribution;
};

// The largest error of each kernel.
class Report {
  public:
    // `floor` bounds the denominator from below, where the values are small sums of large terms.
    void compare(const std::string& kernel, int low, const std::string& shape, const Array& result, const Values& expected, double tolerance,
                 double floor = 0) {
        double largest = floor, difference = 0;
        Values values = result.values();
        for (double value : expected) largest = std::max(largest, std::abs(value));
        for (long i = 0; i < result.size(); i++) {
            double apart = std::abs(values[i] - expected[i]);
            if (!(apart <= difference)) difference = apart;  // NaN stays
            if (std::isnan(apart)) break;
        }
        record(kernel + (low ? " bfloat16" : " float32"), shape, difference == 0 ? 0 : difference / largest, tolerance);
    }
    void require(const std::string& kernel, const std::string& what, bool holds) {
        record(kernel, what, holds ? 0 : std::numeric_limits<double>::infinity(), 0);
    }
    // Prints a line a kernel; whether all errors are within their tolerances.
    bool finish() const {
        bool passed = true;
        for (const auto& [kernel, line] : lines) {
            bool good = line.error <= line.tolerance;
            std::printf("%-44s %-6s error %.2e tolerance %.1e in %d comparisons, largest at %s\n", kernel.c_str(), good ? "ok" : "FAILED",
                        line.error, line.tolerance, line.comparisons, line.shape.c_str());
            passed = passed && good;
        }
        return passed;
    }

  private:
    struct Line {
        double error = -1, tolerance = 0;
        int comparisons = 0;
        std::string shape;
    };
    std::map<std::string, Line> lines;

    void record(const std::string& kernel, const std::string& shape, double error, double tolerance) {
        Line& line = lines[kernel];
        line.comparisons++;
        line.tolerance = tolerance;
        if (std::isnan(line.error) || error <= line.error) return;
        line.error = error, line.shape = shape;
    }
};

inline double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
inline double silu(double z) { return z * sigmoid(z); }
inline double silu_slope(double z) { return sigmoid(z) * (1 + z * (1 - sigmoid(z))); }

inline std::string text(const char* names, std::initializer_list<long> sizes) {
    std::string result = names;
    for (long size : sizes) result += " " + std::to_string(size);
    return result;
}

void check_norm(Report& report);
void check_attention(Report& report);
void check_convolutions(Report& report);
void check_scratch(Report& report);

}  // namespace harness
