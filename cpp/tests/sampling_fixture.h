// What the tests of the sampler share: draws, their exact distribution by a full sort, and Pearson's test.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "narrows/sampling.h"

namespace sampling_fixture {

using namespace narrows;

inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline const Kernels& best() { return *select_kernels(); }

inline std::vector<float> random_logits(int n, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(random);
  return x;
}

inline int32_t draw(const SamplingParams& params, const std::vector<float>& logits) {
  std::vector<float> work = logits;
  return Sampler(params, nullptr, 0).sample(best(), work.data(), static_cast<int32_t>(work.size())).token;
}

// Probability of every token after temperature, top-k, top-p and min-p, by sorting everything.
inline std::vector<double> exact_distribution(const SamplingParams& params,
                                              const std::vector<float>& logits) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size())
    order.resize(static_cast<size_t>(params.top_k));
  const double max = logits[order[0]];
  std::vector<double> weight;
  for (const size_t i : order)
    weight.push_back(std::exp((logits[i] - max) / static_cast<double>(params.temperature)));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  size_t kept = 0;
  for (double sum = 0.0; kept < order.size() && sum < params.top_p * total; ++kept) sum += weight[kept];
  if (params.top_p >= 1.0f) kept = order.size();
  while (kept > 1 && weight[kept - 1] < params.min_p) --kept;
  const double mass =
      std::accumulate(weight.begin(), weight.begin() + static_cast<std::ptrdiff_t>(kept), 0.0);
  std::vector<double> p(logits.size(), 0.0);
  for (size_t i = 0; i < kept; ++i) p[order[i]] = weight[i] / mass;
  return p;
}

// Counts of `draws` consecutive outputs of one request.
inline std::vector<int> count_draws(SamplingParams params, const std::vector<float>& logits, int draws) {
  std::vector<int> counts(logits.size(), 0);
  Sampler sampler(params, nullptr, 0);
  for (int i = 0; i < draws; ++i) {
    std::vector<float> work = logits;
    const int32_t token = sampler.sample(best(), work.data(), static_cast<int32_t>(work.size())).token;
    if (token < 0) return {};
    ++counts[static_cast<size_t>(token)];
    sampler.accept(token);
  }
  return counts;
}

// Pearson's statistic, cells below 5 expected draws pooled, in standard deviations above its mean.
inline double chi_square_sigmas(const std::vector<int>& counts, const std::vector<double>& p, int draws) {
  double statistic = 0.0, pooled_expected = 0.0, pooled = 0.0;
  int cells = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * draws;
    if (expected < 5.0) {
      pooled_expected += expected;
      pooled += counts[i];
      continue;
    }
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  if (pooled_expected >= 5.0) {
    statistic += (pooled - pooled_expected) * (pooled - pooled_expected) / pooled_expected;
    ++cells;
  }
  const double freedom = std::max(1, cells - 1);
  return (statistic - freedom) / std::sqrt(2.0 * freedom);
}

inline std::vector<SamplingParams> filters() {
  std::vector<SamplingParams> all;
  const auto add = [&](float temperature, int top_k, float top_p, float min_p) {
    SamplingParams p;
    p.temperature = temperature;
    p.top_k = top_k;
    p.top_p = top_p;
    p.min_p = min_p;
    all.push_back(p);
  };
  add(1.0f, 0, 1.0f, 0.0f);
  add(0.7f, 0, 1.0f, 0.0f);
  add(2.5f, 0, 0.8f, 0.0f);
  add(1.0f, 0, 0.9f, 0.0f);
  add(1.0f, 5, 1.0f, 0.0f);
  add(1.0f, 1000000, 1.0f, 0.0f);
  add(1.0f, 12, 0.7f, 0.0f);
  add(1.0f, 0, 1.0f, 0.1f);
  add(1.3f, 0, 0.95f, 0.02f);
  add(0.8f, 20, 0.95f, 0.05f);
  return all;
}

}  // namespace sampling_fixture
