// The sampler of a request: penalties, bias, bans, log-probabilities, seeds and extreme logits.
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "check.h"
#include "sampling_fixture.h"

namespace {
using namespace sampling_fixture;
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
  CHECK(token({4.1f, 1.0f, 3.0f, 0.0f}) == 0);  // in prompt and output: once, so 2.05 against 1.5
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
