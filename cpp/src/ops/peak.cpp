// The ceilings of the kernels: multiply-accumulates per second of one thread, registers only.
#include "peak.h"

#include <chrono>
#include <cstdint>

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kChains = 12;       // independent accumulators: more than latency times throughput
constexpr int64_t kBurst = 5000;  // rounds between looks at the clock: some 20 us

// One asm block with fixed registers: gcc 12 keeps an array of accumulators in memory and halves the rate.
// Registers 0 and 1 are the factors, 2 is for a product, 4 to 15 are sums; all begin as zero.
// clang-format off
#define NARROWS_CHAINS(DO) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define NARROWS_CLOBBERS                                                                                     \
  "cc", "xmm0", "xmm1", "xmm2", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"
#define NARROWS_PEAK_LOOP(OP, END)                                                                           \
  int64_t left = kBurst;                                                                                     \
  asm volatile(NARROWS_CLEAR(0) NARROWS_CLEAR(1) NARROWS_CHAINS(NARROWS_CLEAR) ".p2align 5\n\t1:\n\t"        \
               NARROWS_CHAINS(OP) "dec %[left]\n\tjne 1b\n\t" END                                            \
               : [left] "+r"(left) : : NARROWS_CLOBBERS)

#if defined(NARROWS_ISA_AVX512VNNI)
constexpr int64_t kIntegersPerChain = 64, kFloatsPerChain = 16;
#define NARROWS_CLEAR(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define NARROWS_DOT(i) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #i "\n\t"
#define NARROWS_FMA(i) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #i "\n\t"
void integer_burst() { NARROWS_PEAK_LOOP(NARROWS_DOT, "vzeroupper"); }
void float_burst() { NARROWS_PEAK_LOOP(NARROWS_FMA, "vzeroupper"); }
#elif defined(NARROWS_ISA_AVX2)
constexpr int64_t kIntegersPerChain = 32, kFloatsPerChain = 8;
#define NARROWS_CLEAR(i) "vpxor %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n\t"
// What the 4-bit kernel issues.
#define NARROWS_DOT(i) "vpmaddubsw %%ymm0, %%ymm1, %%ymm2\n\tvpaddw %%ymm2, %%ymm" #i ", %%ymm" #i "\n\t"
#define NARROWS_FMA(i) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #i "\n\t"
void integer_burst() { NARROWS_PEAK_LOOP(NARROWS_DOT, "vzeroupper"); }
void float_burst() { NARROWS_PEAK_LOOP(NARROWS_FMA, "vzeroupper"); }
#elif defined(NARROWS_X86)
// The baseline of x86-64 is SSE2: products of 16-bit integers, and no fused multiply-add.
constexpr int64_t kIntegersPerChain = 8, kFloatsPerChain = 4;
#define NARROWS_CLEAR(i) "pxor %%xmm" #i ", %%xmm" #i "\n\t"
#define NARROWS_DOT(i) "movdqa %%xmm0, %%xmm2\n\tpmaddwd %%xmm1, %%xmm2\n\tpaddd %%xmm2, %%xmm" #i "\n\t"
#define NARROWS_FMA(i) "movaps %%xmm0, %%xmm2\n\tmulps %%xmm1, %%xmm2\n\taddps %%xmm2, %%xmm" #i "\n\t"
void integer_burst() { NARROWS_PEAK_LOOP(NARROWS_DOT, ""); }
void float_burst() { NARROWS_PEAK_LOOP(NARROWS_FMA, ""); }
#else
constexpr int64_t kIntegersPerChain = 4, kFloatsPerChain = 4;
/// What a compiler makes of it: each sum is multiplied, so that no round can be left out.
template <typename T>
void portable_burst() {
  constexpr int kSums = kChains * 4;
  volatile T seed = T(3);
  const T factor = seed, term = seed;
  T sums[kSums] = {};
  for (int64_t i = 0; i < kBurst; ++i) {
    for (int c = 0; c < kSums; ++c) sums[c] = sums[c] * factor + term;
  }
  T total = T(0);
  for (const T sum : sums) total += sum;
  seed = total;
}
void integer_burst() { portable_burst<uint32_t>(); }
void float_burst() { portable_burst<float>(); }
#endif
// clang-format on

/// Bursts until `seconds` are over, each of kBurst rounds; rounds per second.
double rounds_per_second(void (*burst)(), double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  int64_t rounds = 0;
  double elapsed = 0;
  while (elapsed < seconds) {
    burst();
    rounds += kBurst;
    elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return static_cast<double>(rounds) / elapsed;
}

}  // namespace

double int8_peak(double seconds) {
  return rounds_per_second(integer_burst, seconds) * kChains * kIntegersPerChain;
}

double fp32_peak(double seconds) {
  return rounds_per_second(float_burst, seconds) * kChains * kFloatsPerChain;
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
