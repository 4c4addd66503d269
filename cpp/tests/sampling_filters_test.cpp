// Top-k, top-p, min-p and temperature against the definition: the kept set, and the distribution of many
// draws.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "check.h"
#include "sampling_fixture.h"

namespace {
using namespace sampling_fixture;
}

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
