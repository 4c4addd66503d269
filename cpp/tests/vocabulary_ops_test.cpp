// The store into KV blocks and its rounding to f16, and the passes over the vocabulary, on every instruction
// set.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "ops_fixture.h"

namespace {

using namespace ops_fixture;

uint16_t half_of(double x) {  // the nearest code, ties to even: by search over all non-negative ones
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(x);
  const auto value = [](int code) {
    const int exponent = code >> 10;
    return exponent == 0 ? std::ldexp(code, -24) : std::ldexp(1024 + (code & 1023), exponent - 25);
  };
  int low = 0, high = 0x7c00;  // value(0x7c00) = 65536: where infinity would stand
  while (high - low > 1) (value((low + high) / 2) <= magnitude ? low : high) = (low + high) / 2;
  if (magnitude >= 65536.0) return static_cast<uint16_t>(sign | 0x7c00);
  const double below = magnitude - value(low), above = value(high) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

}  // namespace

TEST(store_kv_writes_one_slot_of_a_block) {
  for (const Kernels* k : all_kernels()) {
    for (const int head_dim : {1, 7, 8, 9, 16, 17, 33, 64, 80}) {
      for (const int slot : {0, 5, 15}) {
        const size_t size = static_cast<size_t>(head_dim) * kKvBlock;
        const std::vector<float> key = random_floats(head_dim, 13),
                                 value = random_floats(head_dim, 14, 1000.0f);
        std::vector<uint16_t> k16(size + 8, 0xabcd), v16(k16);
        std::vector<float> k32(size + 8, kGuard), v32(k32);
        k->store_kv(key.data(), value.data(), head_dim, slot, KvFormat::f16, k16.data(), v16.data());
        k->store_kv(key.data(), value.data(), head_dim, slot, KvFormat::f32, k32.data(), v32.data());
        int mismatches = 0;
        for (size_t i = 0; i < size + 8; ++i) {
          const bool mine_k = i < size && i % kKvBlock == static_cast<size_t>(slot);
          const bool mine_v = i < size && i / static_cast<size_t>(head_dim) == static_cast<size_t>(slot);
          const size_t dk = i / kKvBlock, dv = i % static_cast<size_t>(head_dim);
          mismatches += k16[i] != (mine_k ? half_of(key[dk]) : 0xabcd);
          mismatches += v16[i] != (mine_v ? half_of(value[dv]) : 0xabcd);
          mismatches += k32[i] != (mine_k ? key[dk] : kGuard);
          mismatches += v32[i] != (mine_v ? value[dv] : kGuard);
        }
        CHECK(mismatches == 0);
      }
    }
  }
}

TEST(f16_rounds_to_nearest_even_at_every_seam) {
  std::vector<float> x = {65504.0f, 65519.996f, 65520.0f,   1e6f,     3e38f, 0.0f,
                          0x1p-24f, 0x1p-25f,   0x1.8p-24f, 0x1p-26f, 1e-40f};
  for (int exponent = -26; exponent <= 15; ++exponent) {
    for (const float m :
         {1.0f, 1.0f + 0x1p-11f, 1.0f + 0x1.8p-10f, 1.0f + 0x1.7ffp-10f, 2.0f - 0x1p-11f, 2.0f - 0x1p-12f}) {
      x.push_back(std::ldexp(m, exponent));
    }
  }
  for (size_t n = x.size(), i = 0; i < n; ++i) x.push_back(-x[i]);
  const int32_t n = static_cast<int32_t>(x.size());
  for (const Kernels* k : all_kernels()) {
    std::vector<uint16_t> keys(x.size() * kKvBlock), values(x.size() * kKvBlock);
    k->store_kv(x.data(), x.data(), n, 3, KvFormat::f16, keys.data(), values.data());
    for (size_t i = 0; i < x.size(); ++i) {
      CHECK(keys[i * kKvBlock + 3] == half_of(x[i]));
      CHECK(values[3 * x.size() + i] == half_of(x[i]));
    }
    const float special[3] = {kInf, -kInf, kNan};
    k->store_kv(special, special, 3, 0, KvFormat::f16, keys.data(), values.data());
    CHECK(values[0] == 0x7c00 && values[1] == 0xfc00 && (values[2] & 0x7e00) == 0x7e00);
  }
}

TEST(log_sum_exp_matches_double_precision) {
  for (const Kernels* k : all_kernels()) {
    for (const int n : {1, 2, 7, 8, 15, 16, 17, 31, 33, 100, 1023, 1024, 1025, 5000, 151936}) {
      for (const float size : {1.0f, 30.0f}) {
        std::vector<float> x = random_floats(n, 15, size);
        if (n > 3) x[static_cast<size_t>(n) / 2] = -kInf;
        const double max = *std::max_element(x.begin(), x.end());
        double sum = 0.0;
        for (const float v : x) sum += std::exp(v - max);
        float got_max = 0.0f, lse = 0.0f;
        bool finite = false;
        k->log_sum_exp(x.data(), n, &got_max, &lse, &finite);
        CHECK(finite && got_max == static_cast<float>(max));
        CHECK_NEAR(lse, max + std::log(sum), 2 * kUlp * std::fabs(max + std::log(sum)) + 4e-6);
      }
    }
  }
}

TEST(log_sum_exp_tells_where_logits_are_not_finite) {
  for (const Kernels* k : all_kernels()) {
    for (const int n : {1, 16, 40, 77}) {
      for (int at = 0; at < n; at += 3) {
        for (const float bad : {kNan, -kNan, kInf}) {
          std::vector<float> x = random_floats(n, 16);
          x[static_cast<size_t>(at)] = bad;
          float max = 0.0f, lse = 0.0f;
          bool finite = true;
          k->log_sum_exp(x.data(), n, &max, &lse, &finite);
          CHECK(!finite);
        }
      }
      const std::vector<float> masked(static_cast<size_t>(n), -kInf);
      float max = 0.0f, lse = 0.0f;
      bool finite = false;
      k->log_sum_exp(masked.data(), n, &max, &lse, &finite);
      CHECK(finite && max == -kInf && lse == -kInf);
    }
  }
}

TEST(argmax_is_the_lowest_index_and_never_nan) {
  for (const Kernels* k : all_kernels()) {
    for (int n = 1; n <= 70; ++n) {
      for (int at = 0; at < n; ++at) {
        std::vector<float> x(static_cast<size_t>(n), -3.0f);
        x[static_cast<size_t>(at)] = -1.0f;
        if (at + 2 < n) x[static_cast<size_t>(at) + 2] = -1.0f;
        if (at > 0) x[static_cast<size_t>(at) - 1] = kNan;
        CHECK(k->argmax(x.data(), n) == at);
      }
    }
    const std::vector<float> masked(20, -kInf);
    CHECK(k->argmax(masked.data(), 20) == 0);
  }
}
