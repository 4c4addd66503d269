// Tiny random models for the tests of a step: one struct of knobs, and a model that owns its packed bytes.
#pragma once
#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "narrows/pack.h"
#include "narrows/transformer.h"

namespace narrows::test {

struct Knobs {
  Format format = Format::F32;
  int32_t group = 0;
  bool has_zero = false;
  int32_t hidden = 64, heads = 4, kv_heads = 2, head_dim = 16, intermediate = 80, layers = 2, vocab = 100;
  int32_t window = 0, rotated = 16;  // rotated 0: no rope
  float attention_softcap = 0, final_softcap = 0;
  NormKind norm = NormKind::rms;
  ActivationKind activation = ActivationKind::silu;
  bool gated = true, bias = false, post_norms = false, head_norms = false, parallel = false,
       positions = false;
  bool tied = false;    // the embedding is read from the packed head
  bool uneven = false;  // layers of different widths
  bool int8_attention = false;
  KvFormat kv = KvFormat::f16;
};

/// Floats and packed bytes with addresses that do not move.
class RandomModel {
 public:
  RandomModel(const Knobs& knobs, ThreadPool& pool) : knobs_(knobs), pool_(pool), random_(42) { build(); }
  const Model& model() const { return model_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
  };

  float* floats(int64_t count, float spread, float center = 0.0f) {
    std::normal_distribution<float> normal(center, spread);
    std::vector<float>& v = floats_.emplace_back(count);
    for (float& x : v) x = normal(random_);
    return v.data();
  }
  Norm norm(int32_t n) {
    return {floats(n, 0.1f, 1.0f), model_.norm == NormKind::layer ? floats(n, 0.1f) : nullptr};
  }
  Linear linear(int32_t n, int32_t k, bool interleave = false) {
    const int32_t packed_n = interleave ? 2 * static_cast<int32_t>(round_up(n, kPanel)) : n;
    Linear l;
    l.w = {nullptr, knobs_.format, packed_n, k, knobs_.group, knobs_.has_zero};
    std::unique_ptr<uint8_t, Free>& bytes = bytes_.emplace_back(
        static_cast<uint8_t*>(::operator new(static_cast<size_t>(l.w.bytes()), std::align_val_t{64})));
    std::vector<SourceRows> sources;
    for (int i = 0; i < (interleave ? 2 : 1); ++i) {
      sources.push_back(
          {floats(int64_t{n} * k, 1.0f / std::sqrt(static_cast<float>(k))), DType::f32, n, k, k});
    }
    pack(sources, interleave, l.w, bytes.get(), pool_, *select_kernels());
    l.w.data = bytes.get();
    if (knobs_.bias) l.bias = floats(packed_n, 0.1f);
    return l;
  }
  Layer layer(int32_t index) {
    const Knobs& k = knobs_;
    Layer l;
    l.heads = k.uneven && index % 2 == 1 ? k.kv_heads : k.heads;
    l.kv_heads = k.kv_heads;
    l.head_dim = k.head_dim;
    l.intermediate = k.uneven ? k.intermediate - 13 * index : k.intermediate;
    l.kv = k.kv;
    l.int8_attention = k.int8_attention;
    l.window = index % 2 == 0 ? k.window : 0;
    l.rope = k.rotated > 0 ? 0 : -1;
    l.attention_scale = 1.0f / std::sqrt(static_cast<float>(k.head_dim));
    l.attention_softcap = k.attention_softcap;
    l.gated = k.gated;
    l.activation = k.activation;
    l.parallel_residual = k.parallel;
    l.norm_attn = norm(k.hidden);
    l.norm_mlp = norm(k.hidden);
    if (k.post_norms) l.post_attn = norm(k.hidden), l.post_mlp = norm(k.hidden);
    if (k.head_norms) {
      l.q_norm.weight = floats(k.head_dim, 0.1f, 1.0f);
      l.k_norm.weight = floats(k.head_dim, 0.1f, 1.0f);
    }
    l.qkv = linear((l.heads + 2 * l.kv_heads) * k.head_dim, k.hidden);
    l.out = linear(k.hidden, l.heads * k.head_dim);
    l.up = linear(l.intermediate, k.hidden, k.gated);
    l.down = linear(k.hidden, l.intermediate);
    return l;
  }
  void build() {
    const Knobs& k = knobs_;
    model_.hidden = k.hidden;
    model_.vocab = k.vocab;
    model_.max_positions = 1024;
    model_.norm = k.norm;
    model_.final_softcap = k.final_softcap;
    if (k.rotated > 0) {
      Rope rope;
      for (int i = 0; i < k.rotated / 2; ++i)
        rope.inv_freq.push_back(std::pow(100.0f, -2.0f * i / k.rotated));
      model_.ropes.push_back(rope);
    }
    for (int32_t i = 0; i < k.layers; ++i) model_.layers.push_back(layer(i));
    model_.final_norm = norm(k.hidden);
    model_.head = linear(k.vocab, k.hidden);
    model_.embedding = model_.head.w;
    if (!k.tied) {
      model_.embedding.format = Format::F32;
      model_.embedding_rows = floats(int64_t{k.vocab} * k.hidden, 1.0f);
    }
    if (k.positions) model_.position_rows = floats(int64_t{model_.max_positions} * k.hidden, 0.5f);
  }

  Knobs knobs_;
  ThreadPool& pool_;
  std::mt19937 random_;
  std::deque<std::vector<float>> floats_;
  std::deque<std::unique_ptr<uint8_t, Free>> bytes_;
  Model model_;
};

}  // namespace narrows::test
