// The two matrix products of attention over register tiles: scores = Q K^T and out += P V. Every element is
// one chain of fma (over d, or over keys) that starts at 0 or at the stored value and runs upwards, so
// neither the shape of a tile nor the rows that share it change a bit. Included by attention_paged.cpp only.
#pragma once
#include "narrows/kernels.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

// avx512: 8 queries x 2 vectors = 16 accumulators of 32 registers; 10 loads feed 16 fma, and K of two blocks
// stays in L1 for all queries. avx2: 6 x 2 = 12 of 16 registers. generic: a block of 16 scalars (4 SSE
// registers) x 2.
#if defined(NARROWS_ISA_AVX512VNNI)
inline constexpr int kTileRows = 8, kTileVecs = 2;
#elif defined(NARROWS_ISA_AVX2)
inline constexpr int kTileRows = 6, kTileVecs = 2;
#else
inline constexpr int kTileRows = 2, kTileVecs = 16;
#endif
inline constexpr int kStepBlocks = kTileVecs * kWidth / kKvBlock;  // K blocks scored at a time
inline constexpr int kMaxChunkBlocks = kKeyChunk / kKvBlock;

// Keys and values are read from float copies or, where only one tile of queries wants them, from the f16
// pages.
inline Vec load_floats(const float* p) { return load(p); }
inline Vec load_floats(const uint16_t* p) { return load_f16(p); }

// f16 pages come from memory, one after the other from places far apart: while one is multiplied, the same
// line of the page `after` it is asked for, into L2: L1 waits for two dozen lines at most, which is 11 GB/s.
// Float copies are in cache.
template <typename Element>
inline void ask_for([[maybe_unused]] const Element* page, [[maybe_unused]] int64_t i) {
  if constexpr (sizeof(Element) == 2) __builtin_prefetch(page + i, 0, 2);
}
constexpr int kHalvesPerLine = 32;
constexpr int kPagesAhead = 4;  // 16 KiB with heads of 128: the time of a few hundred lines

// scores[r * kKeyChunk + key] = sum_d q[d * kRows + r] * k[key / 16][d * 16 + key % 16] for kVecs * kWidth
// keys.
template <int kRows, int kVecs, typename Element>
inline void score_tile(const float* q, const Element* const* k, const Element* const* after, int head_dim,
                       float* scores) {
  Vec sum[kRows][kVecs];
  const Element* lane[kVecs];
  for (int j = 0; j < kVecs; ++j) lane[j] = k[j * kWidth / kKvBlock] + j * kWidth % kKvBlock;
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVecs; ++j) sum[r][j] = broadcast(0.0f);
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    if (d % (kHalvesPerLine / kKvBlock) == 0) {
      for (int b = 0; b < kVecs * kWidth / kKvBlock; ++b) ask_for(after[b], d * kKvBlock);
    }
    Vec keys[kVecs];
    for (int j = 0; j < kVecs; ++j) keys[j] = load_floats(lane[j] + d * kKvBlock);
    for (int r = 0; r < kRows; ++r) {
      const Vec query = broadcast(q[d * kRows + r]);
      for (int j = 0; j < kVecs; ++j) sum[r][j] = fma(query, keys[j], sum[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVecs; ++j) store(scores + r * kKeyChunk + j * kWidth, sum[r][j]);
  }
}

// The V of a chunk: block b at data[b], `ld` elements between tokens; `after` is what will be read
// kPagesAhead pages later.
template <typename Element>
struct ChunkValues {
  const Element* data[kMaxChunkBlocks];
  int64_t ld;
  const Element* after = nullptr;
};

// out[r * out_ld + i] += sum over keys [begin, end) of p[r * kKeyChunk + key] * V[key][first + i], kVecs
// vectors of i.
template <int kRows, int kVecs, typename Element>
inline void value_tile(const float* p, const ChunkValues<Element>& v, int begin, int end, int64_t first,
                       float* out, int64_t out_ld) {
  Vec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVecs; ++j) sum[r][j] = load(out + r * out_ld + j * kWidth);
  }
  for (int key = begin; key < end;) {
    const int block = key / kKvBlock;
    const int stop = (block + 1) * kKvBlock < end ? (block + 1) * kKvBlock : end;
    const int64_t offset = (key % kKvBlock) * v.ld + first;
    const Element* row = v.data[block] + offset;
    const Element* after = (v.after != nullptr ? v.after : v.data[block]) + offset;
    for (; key < stop; ++key, row += v.ld, after += v.ld) {
      ask_for(after, 0);
      Vec values[kVecs];
      for (int j = 0; j < kVecs; ++j) values[j] = load_floats(row + j * kWidth);
      for (int r = 0; r < kRows; ++r) {
        const Vec weight = broadcast(p[r * kKeyChunk + key]);
        for (int j = 0; j < kVecs; ++j) sum[r][j] = fma(weight, values[j], sum[r][j]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVecs; ++j) store(out + r * out_ld + j * kWidth, sum[r][j]);
  }
}

template <int kRows = kTileRows, typename Element>
inline void score_rows(int rows, int blocks, const float* q, const Element* const* k,
                       const Element* const* after, int head_dim, float* scores) {
  if (rows == kRows) {
    if (blocks == kStepBlocks) return score_tile<kRows, kTileVecs>(q, k, after, head_dim, scores);
    return score_tile<kRows, kKvBlock / kWidth>(q, k, after, head_dim, scores);
  }
  if constexpr (kRows > 1) score_rows<kRows - 1>(rows, blocks, q, k, after, head_dim, scores);
}

template <int kVecs, int kRows = kTileRows, typename Element>
inline void value_rows(int rows, const float* p, const ChunkValues<Element>& v, int begin, int end,
                       int64_t first, float* out, int64_t out_ld) {
  if (rows == kRows) return value_tile<kRows, kVecs>(p, v, begin, end, first, out, out_ld);
  if constexpr (kRows > 1) value_rows<kVecs, kRows - 1>(rows, p, v, begin, end, first, out, out_ld);
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
