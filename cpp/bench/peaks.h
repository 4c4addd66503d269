// The ceilings of the kernels: what the multipliers of this CPU can do, and clocks to measure them with.
#pragma once
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "narrows/kernels.h"
#include "narrows/thread_pool.h"

namespace narrows::bench {

inline double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// CPU time of the calling thread: what it worked, whatever its neighbours did.
inline double thread_cpu_s() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/// Short tries, and the best of them counts: one of them is undisturbed.
constexpr int kTries = 10;
constexpr double kTrySeconds = 1.5e-3;

/// fp32 multiply-adds per second of the calling thread.
inline double fp32_peak(const Kernels& kernels) {
  double best = 0.0;
  for (int i = 0; i < kTries; ++i) best = std::max(best, kernels.fp32_peak(kTrySeconds / kTries));
  return best;
}

/// GMAC/s of all threads at once, int8 or fp32.
inline double peak_gmac_per_s(const Kernels& kernels, bool int8, ThreadPool& pool) {
  std::vector<double> rates(static_cast<size_t>(pool.size()));
  double best = 0.0;
  for (int i = 0; i < kTries; ++i) {
    pool.run([&](int thread) {
      rates[static_cast<size_t>(thread)] = (int8 ? kernels.int8_peak : kernels.fp32_peak)(kTrySeconds);
    });
    double total = 0.0;
    for (const double rate : rates) total += rate;
    best = std::max(best, total);
  }
  return best * 1e-9;
}

}  // namespace narrows::bench
