// The sampler against the definition: a full sort in double precision, and the distribution of many draws.
#include "narrows/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "check.h"

namespace {

using namespace narrows;

constexpr float kInf = std::numeric_limits<float>::infinity();

const Kernels& best() { return *select_kernels(); }

std::vector<float> random_logits(int n, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(random);
  return x;
}

int32_t draw(const SamplingParams& params, const std::vector<float>& logits) {
  std::vector<float> work = logits;
  return Sampler(params, nullptr, 0).sample(best(), work.data(), static_cast<int32_t>(work.size())).token;
}

// Probability of every token after temperature, top-k, top-p and min-p, by sorting everything.
std::vector<double> exact_distribution(const SamplingParams& params, const std::vector<float>& logits) {
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
std::vector<int> count_draws(SamplingParams params, const std::vector<float>& logits, int draws) {
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
double chi_square_sigmas(const std::vector<int>& counts, const std::vector<double>& p, int draws) {
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

std::vector<SamplingParams> filters() {
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

}  // namespace

TEST(draws_follow_the_exact_distribution) {
  constexpr int kDraws = 20000;
  const std::vector<float> logits = random_logits(60, 1, 1.5f);
  for (SamplingParams params : filters()) {
    params.seed = 99;
    const std::vector<double> p = exact_distribution(params, logits);
    const std::vector<int> counts = count_draws(params, logits, kDraws);
    CHECK(counts.size() == p.size());
    if (counts.size() != p.size()) continue;
    for (size_t i = 0; i < p.size(); ++i) CHECK(p[i] > 0.0 || counts[i] == 0);
    CHECK(chi_square_sigmas(counts, p, kDraws) < 5.0);
  }
}

TEST(a_wrong_distribution_would_be_noticed) {
  const std::vector<float> logits = random_logits(60, 1, 1.5f);
  SamplingParams sampled, assumed;
  assumed.temperature = 1.1f;
  const std::vector<int> counts = count_draws(sampled, logits, 20000);
  CHECK(chi_square_sigmas(counts, exact_distribution(assumed, logits), 20000) > 5.0);
}

// Every seed lands inside the exact set, and enough seeds find all of it.
TEST(the_kept_set_is_exact) {
  for (const int n : {1, 2, 31, 32, 33, 400}) {
    const std::vector<float> logits = random_logits(n, 2, 0.7f);
    for (SamplingParams params : filters()) {
      if (params.top_k == 0 && params.top_p >= 1.0f && params.min_p == 0.0f) continue;
      params.temperature = std::max(params.temperature, 1.0f);
      const std::vector<double> p = exact_distribution(params, logits);
      const double rarest = *std::min_element(
          p.begin(), p.end(), [](double a, double b) { return (a > 0.0 ? a : 2.0) < (b > 0.0 ? b : 2.0); });
      const std::vector<int> counts =
          count_draws(params, logits, static_cast<int>(std::min(20.0 / rarest, 40000.0)));
      for (size_t i = 0; i < p.size(); ++i)
        CHECK((p[i] > 0.0) == (counts[i] > 0) || (p[i] * 40000.0 < 15.0 && p[i] > 0.0));
    }
  }
}

// The draw runs through the order "logit descending, then id": the token of a given u is known exactly.
TEST(large_vocabularies_agree_with_the_sorted_definition) {
  constexpr int kVocab = 20000;
  for (const float spread : {0.0f, 0.5f, 2.0f, 6.0f}) {
    std::vector<float> logits = random_logits(kVocab, 3, spread);
    for (size_t i = 0; i < logits.size(); i += 7)
      logits[i] = std::round(logits[i] * 4.0f) / 4.0f;  // many ties
    for (const SamplingParams& base : filters()) {
      const std::vector<double> p = exact_distribution(base, logits);
      const double kept =
          static_cast<double>(std::count_if(p.begin(), p.end(), [](double x) { return x > 0.0; }));
      for (uint64_t seed = 0; seed < 12; ++seed) {
        SamplingParams params = base;
        params.seed = seed;
        const int32_t token = draw(params, logits);
        CHECK(token >= 0 && token < kVocab);
        if (token < 0 || token >= kVocab) continue;
        // A single token at the edge of top-p may go either way by rounding when tens of thousands are
        // summed.
        CHECK(p[static_cast<size_t>(token)] > 0.0 || (base.top_p < 1.0f && kept > 1000.0));
      }
    }
  }
}

TEST(ties_at_the_edge_of_top_k_go_to_lower_ids) {
  const std::vector<float> logits(100, 1.0f);
  for (const int top_k : {1, 3, 40}) {
    SamplingParams params;
    params.top_k = top_k;
    std::set<int32_t> seen;
    for (params.seed = 0; params.seed < 2000; ++params.seed) seen.insert(draw(params, logits));
    CHECK(seen.size() == static_cast<size_t>(top_k) && *seen.rbegin() == top_k - 1);
  }
}

TEST(top_p_keeps_the_token_that_crosses_the_line) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  const std::map<float, size_t> sizes = {{0.01f, 1}, {0.49f, 1}, {0.51f, 2}, {0.79f, 2},
                                         {0.81f, 3}, {0.96f, 4}, {1.0f, 4}};
  for (const auto& [top_p, size] : sizes) {
    SamplingParams params;
    params.top_p = top_p;
    std::set<int32_t> seen;
    for (params.seed = 0; params.seed < 1000; ++params.seed) seen.insert(draw(params, logits));
    CHECK(seen.size() == size && *seen.rbegin() == static_cast<int32_t>(size) - 1);
  }
}

TEST(greedy_takes_the_first_maximum_after_penalties) {
  SamplingParams params;
  params.temperature = 0.0f;
  CHECK(draw(params, {1.0f, 3.0f, 3.0f, -kInf}) == 1);
  params.logit_bias = {{0, 5.0f}, {-1, 9.0f}, {4, 9.0f}};  // ids outside of the vocabulary do nothing
  CHECK(draw(params, {1.0f, 3.0f, 3.0f, -kInf}) == 0);
}

TEST(repetition_penalty_counts_prompt_and_output_once) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.repetition_penalty = 2.0f;
  const std::vector<int32_t> prompt = {0, 0, 0, 1};
  Sampler sampler(params, prompt.data(), 4);
  const auto token = [&](std::vector<float> x) { return sampler.sample(best(), x.data(), 4).token; };
  CHECK(token({3.9f, 1.0f, 2.0f, 0.0f}) == 2);  // 3.9 / 2 < 2: divided once only
  CHECK(token({4.1f, 1.0f, 2.0f, 0.0f}) == 0);
  CHECK(token({-9.0f, -1.0f, -1.9f, -9.0f}) == 2);  // -1 * 2 < -1.9
  sampler.accept(2);
  CHECK(token({-9.0f, -1.0f, -1.9f, -9.0f}) == 1);
  sampler.accept(0);
  CHECK(token({4.1f, 1.0f, 2.0f, 0.0f}) == 0);  // in prompt and output: still once
}

TEST(presence_and_frequency_count_the_output_only) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.presence_penalty = 1.0f;
  params.frequency_penalty = 0.5f;
  const std::vector<int32_t> prompt = {0, 0};
  Sampler sampler(params, prompt.data(), 2);
  const auto token = [&](std::vector<float> x) { return sampler.sample(best(), x.data(), 2).token; };
  CHECK(token({1.0f, 0.9f}) == 0);
  sampler.accept(0);
  CHECK(token({2.4f, 1.0f}) == 1);
  CHECK(token({2.6f, 1.0f}) == 0);
  sampler.accept(0);
  CHECK(token({2.9f, 1.0f}) == 1);  // 1 + 2 * 0.5
  CHECK(token({3.1f, 1.0f}) == 0);
}

TEST(stop_tokens_wait_for_min_tokens) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.min_tokens = 2;
  params.banned_until_min = {1};
  Sampler sampler(params, nullptr, 0);
  const auto token = [&](std::vector<float> x) { return sampler.sample(best(), x.data(), 3).token; };
  CHECK(token({0.0f, 9.0f, 1.0f}) == 2);
  sampler.accept(2);
  CHECK(token({0.0f, 9.0f, 1.0f}) == 2);
  sampler.accept(2);
  CHECK(token({0.0f, 9.0f, 1.0f}) == 1);
}

TEST(a_draw_depends_on_seed_and_position_only) {
  const std::vector<float> logits = random_logits(500, 4, 1.0f);
  SamplingParams params;
  params.seed = 7;
  std::vector<int32_t> first;
  Sampler sampler(params, nullptr, 0);
  for (int i = 0; i < 50; ++i) {
    std::vector<float> a = logits, b = logits;
    const int32_t token = sampler.sample(best(), a.data(), 500).token;
    CHECK(token == sampler.sample(best(), b.data(), 500).token);  // sampling changes no state
    first.push_back(token);
    sampler.accept(token);
  }
  Sampler resumed(params, nullptr, 0);  // as after preemption: other history of calls, same position
  for (int i = 0; i < 30; ++i) resumed.accept(first[static_cast<size_t>(i)]);
  std::vector<float> work = logits;
  CHECK(resumed.sample(best(), work.data(), 500).token == first[30]);
  CHECK(std::set<int32_t>(first.begin(), first.end()).size() > 20);
  params.seed = 8;
  CHECK(count_draws(params, logits, 50) != count_draws(sampler.params(), logits, 50));
}

TEST(neighbouring_seeds_are_independent) {
  const std::vector<float> logits(16, 0.0f);
  std::vector<int> pairs(256, 0);
  constexpr int kSeeds = 20000;
  for (int seed = 0; seed < kSeeds; ++seed) {
    SamplingParams params;
    params.seed = static_cast<uint64_t>(seed);
    const int32_t a = draw(params, logits);
    params.seed += 1;
    ++pairs[static_cast<size_t>(a * 16 + draw(params, logits))];
  }
  CHECK(chi_square_sigmas(pairs, std::vector<double>(256, 1.0 / 256), kSeeds) < 5.0);
}

TEST(logprobs_are_of_the_raw_logits) {
  const std::vector<float> logits = random_logits(1000, 5, 2.0f);
  SamplingParams params;
  params.temperature = 0.6f;
  params.top_k = 50;
  params.top_logprobs = 5;
  params.logit_bias = {{17, 100.0f}};
  std::vector<float> work = logits;
  const Sampled got = Sampler(params, nullptr, 0).sample(best(), work.data(), 1000);
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  CHECK(got.token == 17);
  CHECK_NEAR(got.logprob, logits[17] - std::log(sum), 1e-5);
  std::vector<int32_t> order(1000);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  CHECK(got.top.size() == 5);
  for (size_t i = 0; i < got.top.size(); ++i) {
    CHECK(got.top[i].token == order[i]);
    CHECK_NEAR(got.top[i].logprob, logits[static_cast<size_t>(order[i])] - std::log(sum), 1e-5);
  }
}

TEST(top_logprobs_break_ties_by_id_and_fit_the_vocabulary) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.top_logprobs = 10;
  std::vector<float> logits = {1.0f, 2.0f, 1.0f, 2.0f};
  const Sampled got = Sampler(params, nullptr, 0).sample(best(), logits.data(), 4);
  CHECK(got.top.size() == 4);
  const int32_t expected[] = {1, 3, 0, 2};
  for (size_t i = 0; i < got.top.size(); ++i) CHECK(got.top[i].token == expected[i]);
}

TEST(masked_logits_are_legal_and_others_are_refused) {
  for (SamplingParams params : filters()) {
    for (params.seed = 0; params.seed < 50; ++params.seed) {
      std::vector<float> logits(3000, -kInf);
      logits[1500] = -50.0f;
      CHECK(draw(params, logits) == 1500);
    }
    CHECK(draw(params, std::vector<float>(100, -kInf)) == -1);
    std::vector<float> bad = random_logits(100, 6, 1.0f);
    bad[63] = std::nanf("");
    CHECK(draw(params, bad) == -1);
    bad[63] = kInf;
    CHECK(draw(params, bad) == -1);
  }
  SamplingParams banned;
  banned.min_tokens = 1;
  banned.banned_until_min = {0, 1};
  CHECK(draw(banned, {1.0f, 2.0f}) == -1);
  banned.temperature = 0.0f;
  CHECK(draw(banned, {1.0f, 2.0f}) == -1);
}

TEST(extreme_temperatures_are_the_limits) {
  const std::vector<float> logits = {0.0f, 1.0f, 0.999f, -kInf};
  SamplingParams params;
  for (const float temperature : {1e-40f, 1e-20f, 1e-6f}) {
    params.temperature = temperature;
    for (params.seed = 0; params.seed < 50; ++params.seed) CHECK(draw(params, logits) == 1);
  }
  for (const float top_p : {1.0f, 0.99f}) {
    params.top_p = top_p;
    params.temperature = 1e30f;
    std::set<int32_t> seen;
    for (params.seed = 0; params.seed < 200; ++params.seed) seen.insert(draw(params, logits));
    CHECK(seen == std::set<int32_t>({0, 1, 2}));
  }
}
