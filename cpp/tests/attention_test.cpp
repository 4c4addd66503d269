// Paged attention against a reference in double precision, and the promise that the cut of a prompt changes
// no bit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "attention_fixture.h"
#include "check.h"

namespace {

using namespace attention_fixture;

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> found;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
    if (const Kernels* k = kernels_for(isa)) found.push_back(k);
  }
  return found;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Scores are about 2 in size and carry head_dim roundings of 2^-24 each; a score off by e scales a weight by
// 1 + e. Values are about 1. So 1e-6 * (8 + sqrt(head_dim)) leaves a factor of some four.
//
// In integers: a query is about 2, a key 1, and their largest entries some three times that, so codes are off
// by 0.012 and 0.006 (1/sqrt(12) of a step), a score by 0.012 * 1 + 0.006 * 2 in the root mean square, its
// weight by as much of itself; values and weights add 0.006 and 0.004. Together about 0.02; five times that
// for the worst.
//
// Over pages of 8 bits a query is off by a 32384th of its largest entry, some 6, over sqrt(12): 5e-5, and so
// is a score; weights and values by less. Ten times that for the worst. (The reference reads the same codes.)
double tolerance(const Shape& s) {
  if (s.int8) return 0.1;
  return s.kv == KvFormat::i8 ? 5e-4 : 1e-6 * (8.0 + std::sqrt(static_cast<double>(s.head_dim)));
}

// Checks up to `samples` (row, head) pairs, the last row among them.
void check_reference(const Case& c, const std::vector<float>& out, int samples) {
  const Shape& s = c.shape();
  const int pairs = s.rows * s.heads;
  const int step = std::max(1, pairs / samples);
  double worst = 0.0;
  for (int i = pairs - 1; i >= 0; i -= step) {
    const int row = i / s.heads, head = i % s.heads;
    const std::vector<double> expected = c.reference(row, head);
    for (int d = 0; d < s.head_dim; ++d) {
      const double got = out[static_cast<size_t>(row * c.out_ld() + head * s.head_dim + d)];
      const double error = std::fabs(got - expected[static_cast<size_t>(d)]);
      worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error);
    }
  }
  CHECK(worst <= tolerance(s));
  for (int row = 0; row < s.rows; ++row) {
    for (int64_t i = static_cast<int64_t>(s.heads) * s.head_dim; i < c.out_ld(); ++i) {
      CHECK(out[static_cast<size_t>(row * c.out_ld() + i)] == 12345.0f);
    }
  }
}

const std::vector<std::vector<int>> kCuts = {{1}, {8}, {3, 1, 7}, {64}, {16, 5, 40}};

void check_shape(const Shape& shape, uint32_t seed, int samples) {
  for (const Kernels* kernels : all_kernels()) {
    const Case c(*kernels, shape, seed);
    const std::vector<float> whole = c.run(*kernels, {shape.rows});
    check_reference(c, whole, samples);
    if (!shape.causal) continue;  // the end of the keys is part of the question
    for (const std::vector<int>& cut : kCuts) CHECK(same_bits(whole, c.run(*kernels, cut)));
  }
}

}  // namespace

TEST(random_shapes_match_the_definition_and_every_cut_gives_the_same_bits) {
  std::mt19937 random(7);
  const auto pick = [&](std::initializer_list<int> from) {
    return *(from.begin() + static_cast<int>(random() % from.size()));
  };
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Shape s;
    s.heads = pick({1, 2, 3, 4, 7, 8});
    s.head_dim = pick({1, 8, 17, 33, 40, 64, 80, 96, 128});
    s.start = pick({0, 0, 1, 15, 16, 200, 250, 256, 511, 700});
    s.rows = pick({1, 2, 9, 20, 70});
    s.window = pick({0, 0, 1, 5, 16, 100, 256, 300});
    s.softcap = pick({0, 0, 1}) * 1.5f;
    s.kv = pick({0, 1}) == 1 ? KvFormat::f32 : KvFormat::f16;
    check_shape(s, seed, 12);
  }
}

TEST(in_integers_every_cut_gives_the_same_bits_too) {
  std::mt19937 random(8);
  const auto pick = [&](std::initializer_list<int> from) {
    return *(from.begin() + static_cast<int>(random() % from.size()));
  };
  for (uint32_t seed = 0; seed < 24; ++seed) {
    Shape s{.int8 = true};
    s.heads = pick({1, 2, 3, 8});
    s.head_dim = pick({8, 17, 32, 40, 64, 80, 96, 128, 256});
    s.start = pick({0, 0, 1, 15, 200, 256, 700});
    s.rows = pick({1, 2, 9, 70, 140});
    s.window = pick({0, 0, 5, 100, 300});
    s.softcap = pick({0, 0, 1}) * 1.5f;
    check_shape(s, 200 + seed, 12);
  }
  for (const int head_dim : {1, 511, 512}) {
    check_shape({.heads = 2, .head_dim = head_dim, .start = 250, .rows = 20, .int8 = true}, 229, 16);
  }
  check_shape({.heads = 71, .head_dim = 8, .start = 30, .rows = 5, .int8 = true}, 230, 16);
  check_shape({.heads = 2, .head_dim = 64, .rows = 300, .window = 20, .causal = false, .int8 = true}, 231,
              40);
}

TEST(over_pages_of_8_bits_every_cut_gives_the_same_bits_too) {
  std::mt19937 random(9);
  const auto pick = [&](std::initializer_list<int> from) {
    return *(from.begin() + static_cast<int>(random() % from.size()));
  };
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Shape s{.kv = KvFormat::i8};
    s.heads = pick({1, 2, 3, 4, 5, 7, 8, 11});
    s.head_dim = pick({1, 8, 17, 32, 40, 64, 80, 96, 128, 256});
    s.start = pick({0, 0, 1, 15, 200, 256, 511, 700});
    s.rows = pick({1, 2, 9, 70});
    s.window = pick({0, 0, 1, 5, 100, 300});
    s.softcap = pick({0, 0, 1}) * 1.5f;
    s.int8 = pick({0, 0, 1}) == 1;
    check_shape(s, 300 + seed, 12);
  }
  for (const int head_dim : {511, 1024}) {
    check_shape({.heads = 2, .head_dim = head_dim, .start = 250, .rows = 20, .kv = KvFormat::i8}, 330, 16);
  }
  check_shape({.heads = 2, .head_dim = 64, .rows = 90, .window = 20, .kv = KvFormat::i8, .causal = false},
              331, 40);
}

TEST(over_pages_of_8_bits_a_value_that_is_not_finite_stays_with_the_rows_that_see_it) {
  for (const Kernels* kernels : all_kernels()) {
    for (const bool int8 : {false, true}) {
      for (const bool key : {false, true}) {
        const Shape shape{.heads = 3,
                          .head_dim = 32,
                          .start = 240,
                          .rows = 40,
                          .window = 9,
                          .kv = KvFormat::i8,
                          .int8 = int8};
        Case c(*kernels, shape, 240);
        const std::vector<float> clean = c.run(*kernels, {40}), one(32, 0.5f);
        std::vector<float> bad = one;
        bad[13] = key ? kNan : -INFINITY;
        c.put(260, key ? bad.data() : one.data(), key ? one.data() : bad.data());
        const std::vector<float> out = c.run(*kernels, {40});
        for (int row = 0; row < 40; ++row) {
          const size_t i = static_cast<size_t>(row * c.out_ld());
          CHECK(row >= 20 && row < 29 ? std::isnan(out[i]) : out[i] == clean[i]);
        }
      }
    }
  }
}

TEST(in_integers_a_value_that_is_not_finite_stays_with_the_rows_that_see_it) {
  for (const Kernels* kernels : all_kernels()) {
    Case c(*kernels, {.heads = 2, .head_dim = 32, .start = 240, .rows = 40, .int8 = true}, 240);
    const std::vector<float> one(32, 0.5f);
    std::vector<float> bad = one;
    bad[13] = kNan;
    c.put(260, one.data(), bad.data());
    c.put(270, bad.data(), one.data());
    const std::vector<float> out = c.run(*kernels, {40});
    for (int row = 0; row < 40; ++row) {
      CHECK(std::isfinite(out[static_cast<size_t>(row * c.out_ld())]) == (row < 20));
    }
  }
}

// Codes of four values share a word; the window begins just after the bad token of such a four.
TEST(in_integers_a_value_that_is_not_finite_leaves_its_neighbours_alone) {
  for (const Kernels* kernels : all_kernels()) {
    const Shape shape{.heads = 1, .head_dim = 32, .start = 240, .rows = 40, .window = 4, .int8 = true};
    Case c(*kernels, shape, 241);
    const std::vector<float> clean = c.run(*kernels, {40}), one(32, 0.5f), bad(32, -kNan);
    c.put(260, one.data(), bad.data());
    const std::vector<float> out = c.run(*kernels, {40});
    for (int row = 0; row < 40; ++row) {
      const bool sees = row >= 20 && row < 24;
      for (int d = 0; d < 32; ++d) {
        const size_t i = static_cast<size_t>(row * c.out_ld() + d);
        CHECK(sees ? std::isnan(out[i]) : out[i] == clean[i]);
      }
    }
  }
}

TEST(long_prompt_with_grouped_heads) {
  check_shape({.heads = 4, .head_dim = 64, .start = 0, .rows = 600}, 100, 8);
  check_shape({.heads = 2, .head_dim = 128, .start = 3, .rows = 300, .window = 130, .kv = KvFormat::f32}, 101,
              8);
}

// The window begins in another place for every row; the chunks may not move with it.
TEST(long_windows_that_begin_anywhere) {
  check_shape({.heads = 1, .head_dim = 32, .start = 600, .rows = 100, .window = 300}, 105, 8);
  check_shape({.heads = 2, .head_dim = 64, .start = 0, .rows = 700, .window = 500, .kv = KvFormat::f32}, 106,
              8);
}

TEST(extreme_head_counts_and_head_dims) {
  check_shape({.heads = 64, .head_dim = 16, .start = 250, .rows = 9}, 110, 16);
  check_shape({.heads = 71, .head_dim = 8, .start = 30, .rows = 5}, 111, 16);
  check_shape({.heads = 2, .head_dim = 256, .start = 255, .rows = 10}, 112, 8);
  check_shape({.heads = 1, .head_dim = 512, .start = 500, .rows = 20}, 113, 8);
  check_shape({.heads = 3, .head_dim = 511, .start = 17, .rows = 3, .kv = KvFormat::f32}, 114, 8);
}

TEST(without_a_causal_mask_every_row_sees_all_keys) {
  for (const int window : {0, 20}) {
    check_shape({.heads = 2, .head_dim = 32, .rows = 300, .window = window, .causal = false}, 120, 40);
    check_shape(
        {.heads = 3, .head_dim = 24, .rows = 37, .window = window, .kv = KvFormat::f32, .causal = false}, 121,
        40);
  }
}

TEST(decode_one_token_at_a_time_equals_prefill) {
  for (const Kernels* kernels : all_kernels()) {
    for (const int heads : {1, 4}) {
      const Case c(*kernels, {.heads = heads, .head_dim = 64, .start = 0, .rows = 290, .window = 0}, 130);
      CHECK(same_bits(c.run(*kernels, {290}), c.run(*kernels, {1})));
    }
  }
}

// An infinite value that only later rows may see: 0 * inf would show in the earlier rows of the same tile.
TEST(masked_infinities_do_not_leak_into_earlier_rows) {
  for (const Kernels* kernels : all_kernels()) {
    Case c(*kernels, {.heads = 2, .head_dim = 16, .start = 240, .rows = 40, .kv = KvFormat::f32}, 140);
    const std::vector<float> k(16, 0.5f), v(16, INFINITY), bad_k(16, kNan);
    c.put(250, k.data(), v.data());
    c.put(270, bad_k.data(), v.data());
    const std::vector<float> out = c.run(*kernels, {40});
    for (int row = 0; row < 40; ++row) {
      const float x = out[static_cast<size_t>(row * c.out_ld())];
      CHECK(row < 10 ? std::isfinite(x) : row < 30 ? std::isinf(x) : std::isnan(x));
    }
    CHECK(same_bits(out, c.run(*kernels, {1})));
  }
}

TEST(large_scores_do_not_overflow) {
  for (const Kernels* kernels : all_kernels()) {
    Case c(*kernels, {.heads = 1, .head_dim = 8, .start = 300, .rows = 1, .kv = KvFormat::f32}, 150);
    std::vector<float> k(8), v(8, 3.0f);
    for (int d = 0; d < 8; ++d) k[static_cast<size_t>(d)] = 1e4f;
    for (int t = 0; t <= 300; ++t) c.put(t, k.data(), v.data());
    const std::vector<float> out = c.run(*kernels, {1});
    for (int d = 0; d < 8; ++d) CHECK_NEAR(out[static_cast<size_t>(d)], 3.0, 3e-6);
  }
}

TEST(instruction_sets_agree) {
  const Shape shape{.heads = 4, .head_dim = 80, .start = 100, .rows = 200};
  const Case c(*kernels_for(Isa::generic), shape, 160);
  const std::vector<float> expected = c.run(*kernels_for(Isa::generic), {200});
  for (const Kernels* kernels : all_kernels()) {
    const std::vector<float> out = c.run(*kernels, {200});
    for (size_t i = 0; i < out.size(); ++i) CHECK_NEAR(out[i], expected[i], 2 * tolerance(shape));
  }
}
