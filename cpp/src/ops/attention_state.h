// What the query vectors of one attention tile carry along: their groups, key ranges, running softmax and
// scratch, and the way from block numbers to keys and values. Included by attention_paged.cpp only.
#pragma once
#include <cstdint>

#include "narrows/kernels.h"
#include "ops/attention_tile.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

inline constexpr int kTileQueries =
    64;  // 64 x 256 scores, 64 x 128 queries and sums, a V chunk: 256 KB of L2
inline constexpr int kMaxStepBlocks = 2;
static_assert(kStepBlocks <= kMaxStepBlocks, "attention_scratch_floats reserves two K blocks");

inline int64_t padded(int64_t head_dim) { return (head_dim + kKvBlock - 1) / kKvBlock * kKvBlock; }

inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

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

inline int64_t position_of(const Tile& t, int i) { return t.args.start + (t.query0 + i) / t.args.heads; }

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
      const int64_t vector = query0 + group.first + r;
      const float* q = a.q + vector / a.heads * a.q_ld + vector % a.heads * a.head_dim;
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
  return static_cast<const Element*>(pages) + t.args.blocks[block] * t.args.block_stride;
}

// A single group reads f16 pages as they are; more of them share a copy in float.
inline bool reads_f16(const Tile& t) { return !t.args.kv_f32 && t.num_groups == 1; }

// Floats of one K block: the page itself, or a converted copy in `copy`.
inline const float* key_block(const Tile& t, int64_t block, float* copy) {
  const AttentionArgs& a = t.args;
  if (a.kv_f32) return page_of<float>(t, a.k_pages, block);
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
  if (a.kv_f32) {
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
