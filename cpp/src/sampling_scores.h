// Logits as the samplers read them: weights e^x and the search for the best tokens without sorting the
// vocabulary. Knows nothing of filters and randomness.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace narrows {

struct Candidate {
  float logit = 0.0f;
  int32_t token = -1;
  float weight = 0.0f;  // e^((logit - max) / temperature): 1 for the best
};

/// The order of all choices: logit descending, then id ascending.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// weights[i] = e^((logits[i] - max) * inverse_temperature) within 2 ulp; 0 below e^-87. logits[i] <= max.
void weigh(const float* logits, int32_t n, float max, float inverse_temperature, float* weights);

/// Logits [vocab] and the largest one of every block of them. No NaN among them.
class Scores {
 public:
  Scores(const float* logits, int32_t vocab);
  float max() const { return max_; }
  const float* logits() const { return logits_; }
  int32_t vocab() const { return vocab_; }
  /// All tokens with logit >= threshold, by id.
  std::vector<Candidate> at_least(float threshold) const;
  /// All tokens whose logit is `wanted`, by id. Blocks are skipped unless `possible` holds for their maximum;
  /// it must hold for every logit at or above a wanted one.
  template <typename Possible, typename Wanted>
  std::vector<Candidate> where(const Possible& possible, const Wanted& wanted) const;
  /// The k best (ties: the lower id), in no particular order; fewer where fewer are above -inf.
  std::vector<Candidate> best(int32_t k) const;
  /// The k best, best first.
  std::vector<Candidate> best_sorted(int32_t k) const;

 private:
  static constexpr int32_t kBlock = 32;  // tokens under one maximum
  float threshold_of(int32_t k) const;

  const float* logits_;
  int32_t vocab_;
  std::vector<float> maxima_;
  float max_;
};

template <typename Possible, typename Wanted>
std::vector<Candidate> Scores::where(const Possible& possible, const Wanted& wanted) const {
  std::vector<Candidate> found;
  for (std::size_t b = 0; b < maxima_.size(); ++b) {
    if (!possible(maxima_[b])) continue;
    const int32_t begin = static_cast<int32_t>(b) * kBlock;
    const int32_t end = vocab_ < begin + kBlock ? vocab_ : begin + kBlock;
    for (int32_t i = begin; i < end; ++i) {
      if (wanted(logits_[i])) found.push_back({logits_[i], i, 0.0f});
    }
  }
  return found;
}

}  // namespace narrows
