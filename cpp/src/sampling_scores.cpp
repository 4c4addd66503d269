#include "sampling_scores.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace narrows {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

float larger(float a, float b) { return a > b ? a : b; }

float block_max(const float* x, int32_t n) {
  float lanes[8] = {-kInfinity, -kInfinity, -kInfinity, -kInfinity,
                    -kInfinity, -kInfinity, -kInfinity, -kInfinity};
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] = larger(lanes[lane], x[i + lane]);
  }
  for (; i < n; ++i) lanes[0] = larger(lanes[0], x[i]);
  return *std::max_element(lanes, lanes + 8);
}

// e^-|magnitude| within 2 ulp, 0 below e^-87. Without branches and float comparisons: a loop over it becomes
// vector code.
inline float exp_minus(float magnitude) {
  constexpr int32_t kLimit = std::bit_cast<int32_t>(87.0f);
  const int32_t bits = std::bit_cast<int32_t>(magnitude) & 0x7fffffff;
  const int32_t mask = -static_cast<int32_t>(bits < kLimit);  // all ones, or 0 for results of 0
  const float x = -std::bit_cast<float>((bits & mask) | (kLimit & ~mask));
  const float shift = 12582912.0f;  // 1.5 * 2^23: the sum keeps no fraction
  const float n = (x * 1.44269504088896341f + shift) - shift;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;  // Cephes expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * (r * r) + r + 1.0f;
  const float result = mantissa * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return std::bit_cast<float>(std::bit_cast<int32_t>(result) & mask);
}

}  // namespace

void weigh(const float* logits, int32_t n, float max, float inverse_temperature, float* __restrict weights) {
  for (int32_t i = 0; i < n; ++i) weights[i] = exp_minus((logits[i] - max) * inverse_temperature);
}

Scores::Scores(const float* logits, int32_t vocab) : logits_(logits), vocab_(vocab), max_(-kInfinity) {
  maxima_.reserve(static_cast<size_t>((vocab + kBlock - 1) / kBlock));
  for (int32_t i = 0; i < vocab; i += kBlock) {
    maxima_.push_back(block_max(logits + i, std::min(kBlock, vocab - i)));
    max_ = larger(max_, maxima_.back());
  }
}

// At least k tokens reach the k-th largest block maximum.
float Scores::threshold_of(int32_t k) const {
  if (static_cast<size_t>(k) > maxima_.size()) return kLowest;
  std::vector<float> order = maxima_;
  const auto kth = order.begin() + (k - 1);
  std::nth_element(order.begin(), kth, order.end(), std::greater<float>());
  return larger(*kth, kLowest);
}

std::vector<Candidate> Scores::at_least(float threshold) const {
  const auto reaches = [threshold](float logit) { return logit >= threshold; };
  return where(reaches, reaches);
}

std::vector<Candidate> Scores::best(int32_t k) const {
  std::vector<Candidate> found = at_least(threshold_of(k));
  if (found.size() > static_cast<size_t>(k)) {
    std::nth_element(found.begin(), found.begin() + k, found.end(), better);
    found.resize(static_cast<size_t>(k));
  }
  return found;
}

std::vector<Candidate> Scores::best_sorted(int32_t k) const {
  std::vector<Candidate> found = best(k);
  std::sort(found.begin(), found.end(), better);
  return found;
}

}  // namespace narrows
