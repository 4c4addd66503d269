// Sampling parameters and per-request sampling state. Pure: token = f(logits, params, history, seed,
// position).
#pragma once
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "narrows/kernels.h"

namespace narrows {

struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy
  int32_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]: keeps tokens with p >= min_p * max p
  float repetition_penalty = 1.0f;  // > 0, over prompt and output (CTRL, arXiv 1909.05858)
  float presence_penalty = 0.0f;    // over output, as OpenAI defines both
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  int32_t top_logprobs = -1;  // -1: no logprobs; n >= 0: the chosen token's and the n best
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> banned_until_min;  // end tokens that may not come before min_tokens
  int32_t min_tokens = 0;
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0.0f;  // log-softmax of the model's own logits, before penalties and temperature
  int32_t rank = 0;      // 0 for the most likely (only set for targets)
};

struct Sampled {
  int32_t token = -1;             // -1 where the logits were not finite
  float logprob = 0.0f;           // 0 unless SamplingParams::top_logprobs asks for it
  std::vector<TokenLogprob> top;  // best first
};

/// The sampling state of one request. Randomness is counter based: the draw of output i depends on (seed, i)
/// only, so batch composition, preemption and recomputation cannot change it.
class Sampler {
 public:
  Sampler(SamplingParams params, const int32_t* prompt, int64_t prompt_len);
  /// Draws the next token; `logits` [vocab] may be overwritten. Does not change the state.
  Sampled sample(const Kernels& kernels, float* logits, int32_t vocab) const;
  /// How many of the largest logits decide the draws from here on: 1 for greedy, top_k; 0 where it may be any
  /// number, or more than kMaxReach, because log-probabilities, penalties or biases look at others too.
  int32_t reach() const;
  static constexpr int32_t kMaxReach = 64;
  /// What sample() would draw if all logits but these `count`, of rising tokens, were -inf; reach() > 0 of
  /// the largest must be among them.
  Sampled sample_among(const Kernels& kernels, const float* logits, const int32_t* tokens,
                       int32_t count) const;
  /// Records an accepted output token.
  void accept(int32_t token);
  int64_t num_output() const { return num_output_; }
  const SamplingParams& params() const { return params_; }

 private:
  SamplingParams params_;
  std::unordered_map<int32_t, int32_t> prompt_;  // token -> count; empty where no penalty needs it
  std::unordered_map<int32_t, int32_t> output_;
  int64_t num_output_ = 0;
};

}  // namespace narrows
