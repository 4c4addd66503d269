// One token of one request: penalties, bias and the ban on the logits of the tokens they name, then greedy
// choice or a draw. Log-probabilities are of the logits as they came. Knows no threads and no other requests.
#include "narrows/sampling.h"

#include <cmath>

#include "sampling_draw.h"

namespace narrows {
namespace {

using Counts = std::unordered_map<int32_t, int32_t>;

// Changes single logits and remembers what the model said.
class Edits {
 public:
  Edits(float* logits, int32_t vocab) : logits_(logits), vocab_(vocab) {}

  template <typename Change>
  void apply(int32_t token, const Change& change) {
    if (token < 0 || token >= vocab_) return;
    originals_.try_emplace(token, logits_[token]);
    logits_[token] = change(logits_[token]);
  }
  float original(int32_t token) const {
    const auto found = originals_.find(token);
    return found != originals_.end() ? found->second : logits_[token];
  }

 private:
  float* logits_;
  int32_t vocab_;
  std::unordered_map<int32_t, float> originals_;
};

void repeat_less(Edits& edits, const Counts& prompt, const Counts& output, float penalty) {
  const auto divide = [penalty](float x) { return x > 0.0f ? x / penalty : x * penalty; };
  for (const auto& [token, count] : prompt) edits.apply(token, divide);
  for (const auto& [token, count] : output) {
    if (prompt.find(token) == prompt.end()) edits.apply(token, divide);
  }
}

void edit_logits(Edits& edits, const SamplingParams& params, const Counts& prompt, const Counts& output,
                 int64_t num_output) {
  if (params.repetition_penalty != 1.0f) repeat_less(edits, prompt, output, params.repetition_penalty);
  if (params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f) {
    for (const auto& [token, count] : output) {
      const float penalty = params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
      edits.apply(token, [penalty](float x) { return x - penalty; });
    }
  }
  for (const auto& [token, bias] : params.logit_bias)
    edits.apply(token, [b = bias](float x) { return x + b; });
  if (num_output >= params.min_tokens) return;
  for (const int32_t token : params.banned_until_min)
    edits.apply(token, [](float) { return -__builtin_inff(); });
}

bool needs_counts(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

std::vector<TokenLogprob> best_logprobs(const float* logits, int32_t vocab, float lse, int32_t count) {
  std::vector<TokenLogprob> top;
  if (count <= 0) return top;
  for (const Candidate& c : Scores(logits, vocab).best_sorted(count < vocab ? count : vocab)) {
    top.push_back({.token = c.token, .logprob = c.logit - lse});
  }
  return top;
}

}  // namespace

Sampler::Sampler(SamplingParams params, const int32_t* prompt, int64_t prompt_len)
    : params_(std::move(params)) {
  if (params_.repetition_penalty == 1.0f) return;
  for (int64_t i = 0; i < prompt_len; ++i) ++prompt_[prompt[i]];
}

void Sampler::accept(int32_t token) {
  if (needs_counts(params_)) ++output_[token];
  ++num_output_;
}

int32_t Sampler::reach() const {
  const bool banned = num_output_ < params_.min_tokens && !params_.banned_until_min.empty();
  if (banned || needs_counts(params_) || !params_.logit_bias.empty() || params_.top_logprobs >= 0) return 0;
  if (params_.temperature == 0.0f) return 1;
  return params_.top_k <= kMaxReach ? params_.top_k : 0;
}

Sampled Sampler::sample_among(const Kernels& kernels, const float* logits, const int32_t* tokens,
                              int32_t count) const {
  int32_t index = 0;
  if (params_.temperature == 0.0f) {
    index = kernels.argmax(logits, count);
  } else {
    index = draw_token(params_, Scores(logits, count), uniform_draw(params_.seed, num_output_));
  }
  Sampled sampled;
  sampled.token = tokens[index];
  return sampled;
}

Sampled Sampler::sample(const Kernels& kernels, float* logits, int32_t vocab) const {
  Sampled sampled;
  float max = 0.0f, lse = 0.0f;
  bool finite = false;
  kernels.log_sum_exp(logits, vocab, &max, &lse, &finite);
  if (!finite || max == -__builtin_inff()) return sampled;
  sampled.top = best_logprobs(logits, vocab, lse, params_.top_logprobs);
  Edits edits(logits, vocab);
  edit_logits(edits, params_, prompt_, output_, num_output_);
  int32_t token = -1;
  if (params_.temperature == 0.0f) {
    token = kernels.argmax(logits, vocab);
  } else {
    const Scores scores(logits, vocab);
    if (std::isfinite(scores.max()))
      token = draw_token(params_, scores, uniform_draw(params_.seed, num_output_));
  }
  if (token < 0 || logits[token] == -__builtin_inff()) return Sampled();  // bans and bias left nothing
  sampled.token = token;
  if (params_.top_logprobs >= 0) sampled.logprob = edits.original(token) - lse;
  return sampled;
}

}  // namespace narrows
