// The ceiling of the integer kernels: multiply-accumulates per second of one thread, registers only.
#include "peak.h"

#include <chrono>

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kChains = 12;        // independent accumulators: more than latency times throughput
constexpr int64_t kBurst = 20000;  // rounds between looks at the clock

// One asm block with fixed registers: gcc 12 keeps an array of accumulators in memory and halves the rate.
// clang-format off
#define NARROWS_CHAINS(DO) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define NARROWS_CLOBBERS                                                                                     \
  "cc", "xmm0", "xmm1", "xmm2", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"
#define NARROWS_PEAK_LOOP(CLEAR, OP)                                                                         \
  int64_t left = kBurst;                                                                                     \
  asm volatile(CLEAR(0) CLEAR(1) NARROWS_CHAINS(CLEAR) ".p2align 5\n\t1:\n\t" NARROWS_CHAINS(OP)             \
               "dec %[left]\n\tjne 1b\n\tvzeroupper" : [left] "+r"(left) : : NARROWS_CLOBBERS)

#if defined(NARROWS_ISA_AVX512VNNI)
constexpr int64_t kMacsPerRound = kChains * 64;
#define NARROWS_CLEAR(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define NARROWS_DOT(i) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #i "\n\t"
void burst() { NARROWS_PEAK_LOOP(NARROWS_CLEAR, NARROWS_DOT); }
#elif defined(NARROWS_ISA_AVX2)
constexpr int64_t kMacsPerRound = kChains * 32;  // vpmaddubsw + vpaddw: what the 4-bit kernel issues
#define NARROWS_CLEAR(i) "vpxor %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n\t"
#define NARROWS_DOT(i) "vpmaddubsw %%ymm0, %%ymm1, %%ymm2\n\tvpaddw %%ymm2, %%ymm" #i ", %%ymm" #i "\n\t"
void burst() { NARROWS_PEAK_LOOP(NARROWS_CLEAR, NARROWS_DOT); }
// clang-format on
#else
constexpr int64_t kMacsPerRound = kChains;
void burst() {
  volatile int32_t acc[kChains] = {};
  for (int64_t i = 0; i < kBurst; ++i) {
    for (int c = 0; c < kChains; ++c) acc[c] = acc[c] + 15;
  }
}
#endif

}  // namespace

double int8_peak(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  int64_t rounds = 0;
  double elapsed = 0;
  while (elapsed < seconds) {
    burst();
    rounds += kBurst;
    elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return static_cast<double>(rounds) * kMacsPerRound / elapsed;
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
