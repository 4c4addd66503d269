// Paged attention against a reference in double precision, and the promise that the cut of a prompt changes
// no bit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "narrows/kernels.h"

namespace {

using namespace narrows;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr uint16_t kNanHalf = 0x7e01;

struct Shape {
  int heads = 1, head_dim = 64, start = 0, rows = 1, window = 0;
  float softcap = 0.0f;
  bool f32 = false, causal = true;
};

struct Aligned {
  explicit Aligned(size_t n) : data(static_cast<float*>(std::aligned_alloc(64, (n * 4 + 63) / 64 * 64))) {
    std::fill(data.get(), data.get() + n, kNan);  // scratch holds anything
  }
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data;
};

float half_to_float(uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const double fraction = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024.0 + fraction, exponent - 25);
  if (exponent == 31) return fraction != 0 ? kNan : (h & 0x8000 ? -INFINITY : INFINITY);
  return static_cast<float>(h & 0x8000 ? -magnitude : magnitude);
}

// One sequence of random queries, keys and values, stored in shuffled blocks whose unused slots are NaN.
class Case {
 public:
  Case(const Kernels& kernels, const Shape& shape, uint32_t seed) : kernels_(kernels), shape_(shape) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int keys = shape.start + shape.rows;
    const int blocks = (keys + kKvBlock - 1) / kKvBlock;
    stride_ = static_cast<int64_t>(shape.head_dim) * kKvBlock + 48;  // blocks of other heads lie between
    const size_t elements = static_cast<size_t>(stride_) * static_cast<size_t>(blocks + 3);
    k16_.assign(shape.f32 ? 0 : elements, kNanHalf);
    v16_ = k16_;
    k32_.assign(shape.f32 ? elements : 0, kNan);
    v32_ = k32_;
    blocks_.resize(static_cast<size_t>(blocks + 3));
    std::iota(blocks_.begin(), blocks_.end(), 0);
    std::shuffle(blocks_.begin(), blocks_.end(), random);
    blocks_.resize(static_cast<size_t>(blocks));
    std::vector<float> k(static_cast<size_t>(shape.head_dim)), v(k);
    for (int token = 0; token < keys; ++token) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      put(token, k.data(), v.data());
    }
    q_.resize(static_cast<size_t>(shape.rows * q_ld()));
    for (float& x : q_) x = 2.0f * normal(random);
  }

  void put(int token, const float* k, const float* v) {
    const int64_t at = blocks_[static_cast<size_t>(token / kKvBlock)] * stride_;
    void* kb = shape_.f32 ? static_cast<void*>(k32_.data() + at) : k16_.data() + at;
    void* vb = shape_.f32 ? static_cast<void*>(v32_.data() + at) : v16_.data() + at;
    kernels_.store_kv(k, v, shape_.head_dim, token % kKvBlock, shape_.f32, kb, vb);
  }

  int64_t q_ld() const { return static_cast<int64_t>(shape_.heads) * shape_.head_dim + 5; }
  int64_t out_ld() const { return static_cast<int64_t>(shape_.heads) * shape_.head_dim + 3; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  const Shape& shape() const { return shape_; }

  // The rows cut into pieces of `pieces[i % size]` rows; gaps of `out` keep their filler.
  std::vector<float> run(const Kernels& kernels, const std::vector<int>& pieces) const {
    std::vector<float> out(static_cast<size_t>(shape_.rows * out_ld()), 12345.0f);
    Aligned scratch(static_cast<size_t>(attention_scratch_floats(shape_.heads, shape_.head_dim)));
    size_t piece = 0;
    for (int row = 0; row < shape_.rows; ++piece) {
      const int rows = std::min(pieces[piece % pieces.size()], shape_.rows - row);
      AttentionArgs a;
      a.q = q_.data() + row * q_ld();
      a.q_ld = q_ld();
      a.out = out.data() + row * out_ld();
      a.out_ld = out_ld();
      a.k_pages = shape_.f32 ? static_cast<const void*>(k32_.data()) : k16_.data();
      a.v_pages = shape_.f32 ? static_cast<const void*>(v32_.data()) : v16_.data();
      a.block_stride = stride_;
      a.blocks = blocks_.data();
      a.rows = rows;
      a.heads = shape_.heads;
      a.head_dim = shape_.head_dim;
      a.start = shape_.start + row;
      a.window = shape_.window;
      a.scale = scale();
      a.softcap = shape_.softcap;
      a.kv_f32 = shape_.f32;
      a.causal = shape_.causal;
      a.scratch = scratch.data.get();
      kernels.attention(a);
      row += rows;
    }
    return out;
  }

  double key(int token, int d) const { return at(k16_, k32_, token, d * kKvBlock + token % kKvBlock); }
  double value(int token, int d) const {
    return at(v16_, v32_, token, token % kKvBlock * shape_.head_dim + d);
  }

  // The definition, in double.
  std::vector<double> reference(int row, int head) const {
    const int p = shape_.start + row;
    const int last = shape_.causal ? p : shape_.start + shape_.rows - 1;
    const int begin = shape_.window > 0 ? std::max(0, p - shape_.window + 1) : 0;
    const int end = shape_.window > 0 ? std::min(last + 1, p + shape_.window) : last + 1;
    std::vector<double> weights;
    for (int t = begin; t < end; ++t) {
      double score = 0.0;
      for (int d = 0; d < shape_.head_dim; ++d) {
        score += static_cast<double>(q_[static_cast<size_t>(row * q_ld() + head * shape_.head_dim + d)]) *
                 key(t, d);
      }
      score *= scale();
      if (shape_.softcap > 0.0f) score = shape_.softcap * std::tanh(score / shape_.softcap);
      weights.push_back(score);
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0.0;
    for (double& w : weights) sum += w = std::exp(w - max);
    std::vector<double> out(static_cast<size_t>(shape_.head_dim), 0.0);
    for (int t = begin; t < end; ++t) {
      for (int d = 0; d < shape_.head_dim; ++d) {
        out[static_cast<size_t>(d)] += weights[static_cast<size_t>(t - begin)] / sum * value(t, d);
      }
    }
    return out;
  }

 private:
  double at(const std::vector<uint16_t>& h, const std::vector<float>& f, int token, int64_t offset) const {
    const size_t i = static_cast<size_t>(blocks_[static_cast<size_t>(token / kKvBlock)] * stride_ + offset);
    return shape_.f32 ? f[i] : half_to_float(h[i]);
  }

  const Kernels& kernels_;
  Shape shape_;
  int64_t stride_ = 0;
  std::vector<uint16_t> k16_, v16_;
  std::vector<float> k32_, v32_, q_;
  std::vector<int32_t> blocks_;
};

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
double tolerance(const Shape& s) { return 1e-6 * (8.0 + std::sqrt(static_cast<double>(s.head_dim))); }

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
    s.f32 = pick({0, 1}) == 1;
    check_shape(s, seed, 12);
  }
}

TEST(long_prompt_with_grouped_heads) {
  check_shape({.heads = 4, .head_dim = 64, .start = 0, .rows = 600}, 100, 8);
  check_shape({.heads = 2, .head_dim = 128, .start = 3, .rows = 300, .window = 130, .f32 = true}, 101, 8);
}

TEST(extreme_head_counts_and_head_dims) {
  check_shape({.heads = 64, .head_dim = 16, .start = 250, .rows = 9}, 110, 16);
  check_shape({.heads = 71, .head_dim = 8, .start = 30, .rows = 5}, 111, 16);
  check_shape({.heads = 2, .head_dim = 256, .start = 255, .rows = 10}, 112, 8);
  check_shape({.heads = 1, .head_dim = 512, .start = 500, .rows = 20}, 113, 8);
  check_shape({.heads = 3, .head_dim = 511, .start = 17, .rows = 3, .f32 = true}, 114, 8);
}

TEST(without_a_causal_mask_every_row_sees_all_keys) {
  for (const int window : {0, 20}) {
    check_shape({.heads = 2, .head_dim = 32, .rows = 300, .window = window, .causal = false}, 120, 40);
    check_shape({.heads = 3, .head_dim = 24, .rows = 37, .window = window, .f32 = true, .causal = false}, 121,
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
    Case c(*kernels, {.heads = 2, .head_dim = 16, .start = 240, .rows = 40, .f32 = true}, 140);
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
    Case c(*kernels, {.heads = 1, .head_dim = 8, .start = 300, .rows = 1, .f32 = true}, 150);
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
