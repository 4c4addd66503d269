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
  return static_cast<const Element*>(pages) + a.blocks[block] * a.block_stride;
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

// attention_int8.cpp
void attention_int8(const AttentionArgs& args);
int64_t attention_int8_floats(int32_t head_dim);

}  // namespace narrows::NARROWS_ISA_NAMESPACE
