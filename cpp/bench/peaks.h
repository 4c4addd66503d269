// Register-only loops that measure what the multipliers of this CPU can do: the ceilings of the linear
// kernels.
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
// 24 independent chains, like the prefill tile.
// clang-format off
#define NARROWS_CHAINS(DO)                                                          \
  DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) \
  DO(20) DO(21) DO(22) DO(23) DO(24) DO(25) DO(26) DO(27) DO(28) DO(29) DO(30) DO(31)
// clang-format on
#define NARROWS_CLEAR(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define NARROWS_DOT(i) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define NARROWS_FMA(i) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define NARROWS_PEAK_LOOP(OP, n)                                                                             \
  asm volatile(NARROWS_CLEAR(0) NARROWS_CLEAR(1)                                                             \
                   NARROWS_CHAINS(NARROWS_CLEAR) "1:\n\t" NARROWS_CHAINS(OP) "dec %[i]\n\tjne 1b\n\t"        \
               : [i] "+r"(n)                                                                                 \
               :                                                                                             \
               : "cc", "zmm0", "zmm1", "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", \
                 "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22", "zmm23", "zmm24", "zmm25",   \
                 "zmm26", "zmm27", "zmm28", "zmm29", "zmm30", "zmm31")
__attribute__((target("avx512f,avx512vnni"))) inline void dot_loop(int64_t n) {
  NARROWS_PEAK_LOOP(NARROWS_DOT, n);
}
__attribute__((target("avx512f"))) inline void fma_loop(int64_t n) { NARROWS_PEAK_LOOP(NARROWS_FMA, n); }
#endif

/// GMAC/s of all threads by CPU time: int8 (vpdpbusd) or fp32 (vfmadd); 0 where the kernels in use are not
/// AVX-512.
inline double peak_gmac_per_s([[maybe_unused]] const Kernels& kernels, [[maybe_unused]] bool int8,
                              [[maybe_unused]] ThreadPool& pool) {
#if defined(__x86_64__)
  if (kernels.isa != Isa::avx512vnni) return 0.0;
  constexpr int64_t kLoops = 200'000;  // about 1.5 ms, so that one of the tries is undisturbed
  double best_s = 1e30;
  std::vector<double> busy_s(static_cast<size_t>(pool.size()) * 8);  // a cache line each
  for (int i = 0; i < 10; ++i) {
    pool.run([&](int thread) {
      const double begin = thread_cpu_s();
      int8 ? dot_loop(kLoops) : fma_loop(kLoops);
      busy_s[static_cast<size_t>(thread) * 8] = thread_cpu_s() - begin;
    });
    best_s = std::min(best_s, *std::max_element(busy_s.begin(), busy_s.end()));
  }
  return 24.0 * kLoops * (int8 ? 64 : 16) * pool.size() / best_s * 1e-9;
#else
  return 0.0;
#endif
}

}  // namespace narrows::bench
