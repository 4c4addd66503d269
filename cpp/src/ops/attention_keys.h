// Which keys a query sees, where its keys and values lie, and its masked scores. Shared by the float and the
// integer attention.
#pragma once
#include <cstdint>

#include "narrows/kernels.h"
#include "ops/isa.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

inline int64_t padded(int64_t head_dim) { return (head_dim + kKvBlock - 1) / kKvBlock * kKvBlock; }

struct KeyRange {
  int64_t begin, end;
};

// The keys position p sees. Without causal the window reaches as far ahead as it does back.
inline KeyRange visible_keys(const AttentionArgs& a, int64_t p) {
  const int64_t keys = int64_t{a.start} + a.rows;
  KeyRange range{0, a.causal ? p + 1 : keys};
  if (a.window > 0) {
    if (p + 1 - a.window > 0) range.begin = p + 1 - a.window;
    if (p + a.window < range.end) range.end = p + a.window;
  }
  return range;
}

template <typename Element>
inline const Element* page_at(const AttentionArgs& a, const void* pages, int64_t block) {
  const auto* bytes = static_cast<const uint8_t*>(pages) + a.blocks[block] * a.block_stride;
  return reinterpret_cast<const Element*>(bytes);
}

// Query vectors are the (row, head) pairs of a call in order.
inline int64_t position_at(const AttentionArgs& a, int64_t vector) { return a.start + vector / a.heads; }
inline const float* query_at(const AttentionArgs& a, int64_t vector) {
  return a.q + vector / a.heads * a.q_ld + vector % a.heads * a.head_dim;
}
inline float* result_at(const AttentionArgs& a, int64_t vector) {
  return a.out + vector / a.heads * a.out_ld + vector % a.heads * a.head_dim;
}

// Scores of keys [begin, end) of a chunk after the softcap, -inf in the vectors' other lanes; returns their
// max.
inline float mask_scores(float* scores, int begin, int end, float cap) {
  Vec best = broadcast(-kInfinity);
  for (int key = begin / kWidth * kWidth; key < end; key += kWidth) {
    Vec s = load(scores + key);
    const bool is_partial = key < begin || key + kWidth > end;
    if (cap > 0.0f) s = mul(broadcast(cap), tanh_of(div(s, broadcast(cap))));
    if (is_partial) s = select(lanes_between(begin - key, end - key), s, broadcast(-kInfinity));
    if (is_partial || cap > 0.0f) store(scores + key, s);  // else they are there already
    best = max_of(best, s);
  }
  return reduce_max(best);
}

/// Keys [from, to) of a chunk have scores, whole vectors of them; a query sees [begin, end) of them.
struct KeySpan {
  int from, to, begin, end;
};

struct PreciseExp {
  explicit PreciseExp(float max_) : max(broadcast(max_)) {}
  Vec operator()(Vec score) const { return exp_of(sub(score, max)); }
  Vec max;
};
// Within 7.5e-5 of e^(score - max): enough where weights become 8 bits, and half the instructions. Not for
// infinities.
struct QuickExp {
  explicit QuickExp(float max_) : minus_max(broadcast(max_ * -1.44269504f)) {}
  Vec operator()(Vec score) const {
    const Vec x = fma(score, broadcast(1.44269504f), minus_max);
    const Vec whole = round_nearest(x), r = sub(x, whole);
    Vec p = fma(broadcast(0.05517167f), r, broadcast(0.24261112f));
    p = fma(p, r, broadcast(0.69326099f));
    return times_pow2(fma(p, r, broadcast(0.99992807f)), whole);
  }
  Vec minus_max;
};

// to[key] = e^(score - max) * v_scale, 0 where the query does not see the key; max and sum follow. Returns
// the factor for what was summed before. `row`, `to` and `v_scale` begin with the chunk; `to` may be `row`.
template <typename Exp>
inline float weigh_scores(float* row, float* to, const float* v_scale, const KeySpan& keys, float cap,
                          float* max, float* sum) {
  if (keys.begin >= keys.end) {
    for (int key = keys.from; key < keys.to; key += kWidth) store(to + key, broadcast(0.0f));
    return 1.0f;
  }
  const float chunk_max = mask_scores(row, keys.begin, keys.end, cap);
  const float new_max = chunk_max > *max ? chunk_max : *max;
  const Exp exp_below(new_max);
  Vec total = broadcast(0.0f);
  for (int key = keys.from; key < keys.to; key += kWidth) {
    Vec p = exp_below(load(row + key));
    Vec weighted = mul(p, load(v_scale + key));
    if (key < keys.begin || key + kWidth > keys.end) {  // the few vectors at the ends
      const Mask seen = lanes_between(keys.begin - key, keys.end - key);
      p = select(seen, p, broadcast(0.0f));
      weighted = select(seen, weighted, broadcast(0.0f));
    }
    total = add(total, p);
    store(to + key, weighted);
  }
  float factor[kWidth];
  store(factor, exp_of(sub(broadcast(*max), broadcast(new_max))));
  *sum = *sum * factor[0] + reduce_add(total);
  *max = new_max;
  return factor[0];
}

// attention_int8.cpp, attention_kv8.cpp
void attention_int8(const AttentionArgs& args);
int64_t attention_int8_floats(int32_t head_dim);
void attention_kv8(const AttentionArgs& args);
int64_t attention_kv8_floats(int32_t head_dim);

}  // namespace narrows::NARROWS_ISA_NAMESPACE
