// One sequence of random queries, keys and values in shuffled blocks, its attention in any cut of its rows,
// and the definition of the result in double precision.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "narrows/kernels.h"

namespace attention_fixture {

using namespace narrows;

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int heads = 1, head_dim = 64, start = 0, rows = 1, window = 0;
  float softcap = 0.0f;
  KvFormat kv = KvFormat::f16;
  bool causal = true, int8 = false;
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

inline float half_to_float(uint16_t h) {
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
    stride_ = std::max(kv_key_bytes(shape.kv, shape.head_dim), kv_value_bytes(shape.kv, shape.head_dim)) +
              192;  // blocks of other heads lie between
    k_.assign(static_cast<size_t>(stride_) * static_cast<size_t>(blocks + 3), 0xff);  // NaN in every format
    v_ = k_;
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
    kernels_.store_kv(k, v, shape_.head_dim, token % kKvBlock, shape_.kv, k_.data() + at, v_.data() + at);
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
      a.k_pages = k_.data();
      a.v_pages = v_.data();
      a.block_stride = stride_;
      a.blocks = blocks_.data();
      a.rows = rows;
      a.heads = shape_.heads;
      a.head_dim = shape_.head_dim;
      a.start = shape_.start + row;
      a.window = shape_.window;
      a.scale = scale();
      a.softcap = shape_.softcap;
      a.kv = shape_.kv;
      a.int8 = shape_.int8;
      a.causal = shape_.causal;
      a.scratch = scratch.data.get();
      kernels.attention(a);
      row += rows;
    }
    return out;
  }

  double key(int token, int d) const {
    const int slot = token % kKvBlock;
    if (shape_.kv == KvFormat::i8) return code(k_, token, d / 4 * 64 + slot * 4 + d % 4);
    return at(k_, token, d * kKvBlock + slot);
  }
  double value(int token, int d) const {
    const int slot = token % kKvBlock;
    if (shape_.kv == KvFormat::i8)
      return code(v_, token, d / 16 * 256 + slot / 4 * 64 + d % 16 * 4 + slot % 4);
    return at(v_, token, slot * shape_.head_dim + d);
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
  const uint8_t* page(const std::vector<uint8_t>& pages, int token) const {
    return pages.data() + blocks_[static_cast<size_t>(token / kKvBlock)] * stride_;
  }
  double at(const std::vector<uint8_t>& pages, int token, int64_t i) const {
    if (shape_.kv == KvFormat::f32) return load<float>(page(pages, token) + 4 * i);
    return half_to_float(load<uint16_t>(page(pages, token) + 2 * i));
  }
  double code(const std::vector<uint8_t>& pages, int token, int64_t i) const {
    const float scale = load<float>(page(pages, token) + 4 * (token % kKvBlock));
    return static_cast<double>(scale) * (page(pages, token)[64 + i] - 128);
  }
  template <typename T>
  static T load(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  const Kernels& kernels_;
  Shape shape_;
  int64_t stride_ = 0;
  std::vector<uint8_t> k_, v_;
  std::vector<float> q_;
  std::vector<int32_t> blocks_;
};

}  // namespace attention_fixture
