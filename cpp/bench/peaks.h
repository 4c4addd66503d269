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

#if defined(__x86_64__)
// Twelve independent chains in fixed registers: enough for two FMA units of latency 4 to 6.
// clang-format off
#define NARROWS_FMA(reg, i) "vfmadd231ps " reg "12, " reg "13, " reg #i "\n\t"
#define NARROWS_FMA_CHAINS(reg)                                                                               \
  NARROWS_FMA(reg, 0) NARROWS_FMA(reg, 1) NARROWS_FMA(reg, 2) NARROWS_FMA(reg, 3) NARROWS_FMA(reg, 4)         \
  NARROWS_FMA(reg, 5) NARROWS_FMA(reg, 6) NARROWS_FMA(reg, 7) NARROWS_FMA(reg, 8) NARROWS_FMA(reg, 9)         \
  NARROWS_FMA(reg, 10) NARROWS_FMA(reg, 11)
#define NARROWS_FMA_LOOP(reg, n)                                                                              \
  asm volatile("vzeroall\n1:\n\t" NARROWS_FMA_CHAINS(reg) "dec %0\n\tjnz 1b\n\tvzeroupper"                    \
               : "+r"(n) : : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",    \
                 "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
// clang-format on
#endif

/// fp32 multiply-adds per second of the calling thread, by CPU time; 0 for generic, which has no such
/// ceiling.
inline double fp32_peak([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::generic) return 0.0;
  constexpr int64_t kLoops = 750'000;  // about 1.5 ms
  const bool wide = isa == Isa::avx512vnni;
  int64_t loops = kLoops;
  const double begin = thread_cpu_s();
  if (wide) {
    NARROWS_FMA_LOOP("%%zmm", loops);
  } else {
    NARROWS_FMA_LOOP("%%ymm", loops);
  }
  return 12.0 * kLoops * (wide ? 16 : 8) / (thread_cpu_s() - begin);
#else
  return 0.0;
#endif
}

/// GMAC/s of all threads at once, int8 or fp32: the best of short tries, so that one of them is undisturbed.
inline double peak_gmac_per_s(const Kernels& kernels, bool int8, ThreadPool& pool) {
  constexpr int kTries = 10;
  constexpr double kTrySeconds = 1.5e-3;
  std::vector<double> rates(static_cast<size_t>(pool.size()));
  double best = 0.0;
  for (int i = 0; i < kTries; ++i) {
    pool.run([&](int thread) {
      rates[static_cast<size_t>(thread)] = int8 ? kernels.int8_peak(kTrySeconds) : fp32_peak(kernels.isa);
    });
    double total = 0.0;
    for (const double rate : rates) total += rate;
    best = std::max(best, total);
  }
  return best * 1e-9;
}

}  // namespace narrows::bench
