// What tests of whole steps share: a transformer with its pages and threads, random tokens, scattered blocks.
#pragma once
#include <vector>

#include "random_model.h"

namespace narrows::test {

inline constexpr int32_t kBlocks = 64, kMaxRows = 320;

inline std::vector<int32_t> random_tokens(int32_t count, int32_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  return tokens;
}

/// Block ids of a sequence: scattered, and disjoint for different first blocks.
inline std::vector<int32_t> scattered_blocks(int32_t count, int32_t first) {
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < count; ++i) blocks.push_back(first + (i * 5) % count);
  return blocks;
}

struct Setup {
  Setup(const Model& model, const Kernels& kernels, int threads)
      : pool(threads), transformer(model, pool, kernels, kMaxRows), kv(model, kBlocks) {}
  ThreadPool pool;
  Transformer transformer;
  KvPages kv;
};

}  // namespace narrows::test
