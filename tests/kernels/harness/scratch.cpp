// Scratch memory: how it grows and shrinks, and what the kernels return when there is none.

#include "harness.h"
#include "vectors.h"

namespace harness {
namespace {

constexpr long HUGE = 1L << 46;  // more values than an address space holds

void check_shrinking(Report& report) {
    Scratch scratch;
    const long large = 1 << 22, small = 1 << 10;
    scratch.of<char>(large);
    report.require("scratch", "it holds the request", scratch.bytes() >= large);
    for (long i = 0; i < 4 * Scratch::PERIOD; i++) scratch.of<char>(i % 100 ? small : large);
    report.require("scratch", "it stays while a large request recurs", scratch.bytes() >= large);
    for (long i = 0; i < 2 * Scratch::PERIOD; i++) scratch.of<char>(small);
    report.require("scratch", "it shrinks when none recurs", scratch.bytes() <= Scratch::EXCESS * (small + Scratch::PAGE));
    std::memset(scratch.of<char>(large), 1, large);
    report.require("scratch", "it grows again", scratch.bytes() >= large);
    for (long i = 0; i < 2 * Scratch::PERIOD; i++) scratch.of<char>(large / 3);
    report.require("scratch", "it stays below the excess", scratch.bytes() >= large);
}

void check_exhaustion(Report& report) {
    Array none(16 * 16 * 9, 0);
    float* p = none.floats();
    long attended[] = {1, HUGE, 1, 8}, convolved[] = {1, 1, HUGE, 16, 16}, steps[] = {144, 9, 3, 1};
    report.require("scratch", "attention returns 1", attention(p, p, p, attended, 0, 2) == 1);
    report.require("scratch", "attention_gradients returns 1", attention_gradients(p, p, p, p, p, attended, 0, 2) == 1);
    report.require("scratch", "winograd_convolve returns 1", winograd_convolve(0, p, p, nullptr, convolved, nullptr, nullptr, p, nullptr, 0, 2) == 1);
    report.require("scratch", "winograd_kernel_gradient returns 1",
                   winograd_kernel_gradient(0, p, p, convolved, nullptr, nullptr, p, steps, 0, 2) == 1);
}

}  // namespace

void check_scratch(Report& report) {
    check_shrinking(report);
    check_exhaustion(report);
}

}  // namespace harness
