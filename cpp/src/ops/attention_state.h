// What the query vectors of one attention tile carry along: their groups, key ranges, running softmax and
// scratch, and the way from block numbers to keys and values. Included by attention_paged.cpp only.
#pragma once
#include <cstdint>

#include "narrows/kernels.h"
#include "ops/attention_keys.h"
#include "ops/attention_tile.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

inline constexpr int kTileQueries =
    64;  // 64 x 256 scores, 64 x 128 queries and sums, a V chunk: 256 KB of L2
inline constexpr int kMaxStepBlocks = 2;
static_assert(kStepBlocks <= kMaxStepBlocks, "attention_scratch_floats reserves two K blocks");

// Query vectors [first, first + count) of a tile, multiplied together.
struct Group {
  int first, count;
};

struct Tile {
  explicit Tile(const AttentionArgs& a)
      : args(a),
        ld(padded(a.head_dim)),
        k(a.scratch),
        v(k + int64_t{kMaxStepBlocks} * kKvBlock * a.head_dim),
        scores(v + kKeyChunk * ld),
        q(scores + int64_t{kTileQueries} * kKeyChunk),
        out(q + kTileQueries * ld) {}

  const AttentionArgs& args;
  int64_t ld;                       // floats between rows of `v` and `out`: head_dim padded to 16
  float *k, *v, *scores, *q, *out;  // parts of args.scratch
  int64_t query0 = 0;               // query vector i of the tile is (row, head) = divmod(query0 + i, heads)
  int queries = 0;
  int num_groups = 0;
  Group groups[kTileQueries];
  float max[kTileQueries], sum[kTileQueries];
  int begin[kTileQueries],
      end[kTileQueries];  // keys of the current chunk, relative to it; empty: begin >= end
};

inline int64_t position_of(const Tile& t, int i) { return position_at(t.args, t.query0 + i); }

inline void begin_tile(Tile& t, int64_t query0, int queries) {
  t.query0 = query0;
  t.queries = queries;
  t.num_groups = 0;
  for (int i = 0; i < queries;) {  // as few groups as possible, of nearly equal size
    const int left = queries - i;
    const int groups_left = (left + kTileRows - 1) / kTileRows;
    const int count = (left + groups_left - 1) / groups_left;
    t.groups[t.num_groups++] = {i, count};
    i += count;
  }
  const AttentionArgs& a = t.args;
  for (int g = 0; g < t.num_groups; ++g) {  // q of a group as [head_dim][count], times the scale
    const Group group = t.groups[g];
    float* packed = t.q + int64_t{group.first} * a.head_dim;
    for (int r = 0; r < group.count; ++r) {
      const float* q = query_at(a, query0 + group.first + r);
      for (int64_t d = 0; d < a.head_dim; ++d) packed[d * group.count + r] = q[d] * a.scale;
    }
  }
  for (int i = 0; i < queries; ++i) {
    t.max[i] = -kInfinity;
    t.sum[i] = 0.0f;
  }
  for (int64_t i = 0; i < queries * t.ld; i += kWidth) store(t.out + i, broadcast(0.0f));
}

template <typename Element>
inline const Element* page_of(const Tile& t, const void* pages, int64_t block) {
  return page_at<Element>(t.args, pages, block);
}

// A single group reads f16 pages as they are; more of them share a copy in float.
inline bool reads_f16(const Tile& t) { return t.args.kv == KvFormat::f16 && t.num_groups == 1; }

// Floats of one K block: the page itself, or a converted copy in `copy`.
inline const float* key_block(const Tile& t, int64_t block, float* copy) {
  const AttentionArgs& a = t.args;
  if (a.kv == KvFormat::f32) return page_of<float>(t, a.k_pages, block);
  const uint16_t* page = page_of<uint16_t>(t, a.k_pages, block);
  for (int64_t i = 0; i < int64_t{a.head_dim} * kKvBlock; i += kWidth) store(copy + i, load_f16(page + i));
  return copy;
}

template <typename Load, typename LoadPartial>
inline void copy_rows(float* to, int64_t ld, int64_t n, int rows, const Load& full,
                      const LoadPartial& partial) {
  for (int row = 0; row < rows; ++row, to += ld) {
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) store(to + i, full(row * n + i));
    if (i < n) store(to + i, partial(row * n + i, static_cast<int>(n - i)));
  }
}

// Floats of tokens [begin, end) of one V block; other rows of the result are undefined.
inline const float* value_block(const Tile& t, int64_t block, int begin, int end, float* copy) {
  const AttentionArgs& a = t.args;
  const int64_t n = a.head_dim;
  float* to = copy + begin * t.ld;
  if (a.kv == KvFormat::f32) {
    if (n == t.ld) return page_of<float>(t, a.v_pages, block);
    const float* page = page_of<float>(t, a.v_pages, block) + begin * n;
    copy_rows(
        to, t.ld, n, end - begin, [page](int64_t i) { return load(page + i); },
        [page](int64_t i, int left) { return load_partial(page + i, left); });
  } else {
    const uint16_t* page = page_of<uint16_t>(t, a.v_pages, block) + begin * n;
    copy_rows(
        to, t.ld, n, end - begin, [page](int64_t i) { return load_f16(page + i); },
        [page](int64_t i, int left) { return load_f16_partial(page + i, left); });
  }
  return copy;
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
