#include "sampling_draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace narrows {
namespace {

constexpr int32_t kSumBlock = 1024;  // tokens under one partial sum of weights
constexpr size_t kSortAtOnce = 48;   // a selection ends in sorting this few
constexpr size_t kBuckets = 1024;    // by logit, for top-p: 32 per factor of e; the last one takes the rest,
constexpr float kBucketsPerUnit = 32.0f;  // tokens below e^-32 of the best

uint64_t mix(uint64_t z) {  // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Sum in eight lanes and then in double: fixed order, vector code.
double sum(const float* w, int32_t n) {
  float lanes[8] = {};
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += w[i + lane];
  }
  for (; i < n; ++i) lanes[0] += w[i];
  return std::accumulate(lanes, lanes + 8, 0.0);
}

// The part in which the cumulative sum of `parts` reaches `target`, and how much of the target is left for
// it; the last part that is not 0 where rounding leaves the target out of reach.
std::pair<size_t, double> find(const std::vector<double>& parts, double target) {
  std::pair<size_t, double> found{0, 0.0};
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] <= 0.0) continue;
    found = {i, target};
    if (target <= parts[i]) break;
    target -= parts[i];
  }
  return found;
}

double mass(const std::vector<Candidate>& c, size_t end, size_t begin = 0) {
  double sum = 0.0;
  for (size_t i = begin; i < end; ++i) sum += static_cast<double>(c[i].weight);
  return sum;
}

// Length of the shortest prefix, best first, of c[0, n) that weighs at least `target` (n if all weigh less).
// Moves that prefix to the front, its last member last. Halves the undecided part until it is small enough to
// sort.
size_t shortest_prefix(std::vector<Candidate>& c, size_t n, double target) {
  size_t begin = 0, end = n;
  double before = 0.0;
  while (end - begin > kSortAtOnce) {
    const size_t middle = begin + (end - begin) / 2;
    const auto at = [&](size_t i) { return c.begin() + static_cast<std::ptrdiff_t>(i); };
    std::nth_element(at(begin), at(middle), at(end), better);
    const double upper = mass(c, middle, begin);
    if (before + upper >= target) {
      end = middle;
    } else {
      before += upper;
      begin = middle;
    }
  }
  std::sort(c.begin() + static_cast<std::ptrdiff_t>(begin), c.begin() + static_cast<std::ptrdiff_t>(end),
            better);
  for (size_t i = begin; i < end; ++i) {
    before += static_cast<double>(c[i].weight);
    if (before >= target) return i + 1;
  }
  return end;
}

// One draw: the scores, their temperature and the filters.
class Draw {
 public:
  Draw(const SamplingParams& params, const Scores& scores)
      : params_(params),
        scores_(scores),
        max_(scores.max()),
        inverse_temperature_(std::min(1.0f / params.temperature, 1e30f)) {}  // 0 * inf would be NaN

  int32_t token(double u) const {
    const bool top_k = params_.top_k > 0 && params_.top_k < scores_.vocab();
    // Few in order: the sum of their weights then knows nothing of the logits beside them.
    if (top_k && params_.top_k <= Sampler::kMaxReach) {
      return from_candidates(u, scores_.best_sorted(params_.top_k), true);
    }
    if (top_k) return from_candidates(u, scores_.best(params_.top_k), true);
    if (params_.min_p > 0.0f) return from_candidates(u, scores_.at_least(min_p_floor()), false);
    return params_.top_p < 1.0f ? from_nucleus(u) : from_all(u);
  }

 private:
  // Top-p among the candidates, whose weights are all (`complete`) or a part of what top-p is a share of;
  // then min-p.
  int32_t from_candidates(double u, std::vector<Candidate> c, bool complete) const {
    weigh_candidates(c);
    size_t kept = c.size();
    if (params_.top_p < 1.0f) {
      const double total = complete ? mass(c, c.size()) : total_weight();
      kept = shortest_prefix(c, kept, static_cast<double>(params_.top_p) * total);
    }
    const auto end = c.begin() + static_cast<std::ptrdiff_t>(kept);
    kept = static_cast<size_t>(std::remove_if(c.begin(), end, [&](auto& x) { return below_min_p(x); }) -
                               c.begin());
    return c[shortest_prefix(c, kept, u * mass(c, kept)) - 1].token;
  }

  bool below_min_p(const Candidate& c) const {
    return params_.min_p > 0.0f && (c.logit - max_) * inverse_temperature_ < std::log(params_.min_p);
  }

  // A logit a little below those that min-p keeps; the exact test follows.
  float min_p_floor() const {
    const float depth = (0.01f - std::log(params_.min_p)) / inverse_temperature_;
    return std::max(max_ - depth - 1e-5f * std::fabs(max_), std::numeric_limits<float>::lowest());
  }

  // Drops those of weight 0: no rounding of a sum may lead to them.
  void weigh_candidates(std::vector<Candidate>& c) const {
    for (Candidate& x : c) weigh(&x.logit, 1, max_, inverse_temperature_, &x.weight);
    std::erase_if(c, [](const Candidate& x) { return x.weight <= 0.0f; });
  }

  // Calls body(first token, weights, n) for every kSumBlock tokens.
  template <typename Body>
  void for_blocks(int32_t begin, int32_t end, const Body& body) const {
    float weights[kSumBlock];
    for (; begin < end; begin += kSumBlock) {
      const int32_t n = std::min(end - begin, kSumBlock);
      weigh(scores_.logits() + begin, n, max_, inverse_temperature_, weights);
      body(begin, weights, n);
    }
  }

  double total_weight() const {
    double total = 0.0;
    for_blocks(0, scores_.vocab(), [&](int32_t, const float* w, int32_t n) { total += sum(w, n); });
    return total;
  }

  // No filter: the cumulative sum runs over ids, block by block.
  int32_t from_all(double u) const {
    std::vector<double> blocks;
    for_blocks(0, scores_.vocab(), [&](int32_t, const float* w, int32_t n) { blocks.push_back(sum(w, n)); });
    const auto [block, left] = find(blocks, u * std::accumulate(blocks.begin(), blocks.end(), 0.0));
    const int32_t begin = static_cast<int32_t>(block) * kSumBlock;
    int32_t token = begin;
    for_blocks(begin, std::min(scores_.vocab(), begin + kSumBlock), [&](int32_t, const float* w, int32_t n) {
      token += static_cast<int32_t>(find(std::vector<double>(w, w + n), left).first);
    });
    return token;
  }

  // Tokens of falling logit fall into buckets of rising number; equal logits share one.
  size_t bucket(float logit) const {
    const float depth = (max_ - logit) * inverse_temperature_ * kBucketsPerUnit;
    return depth < static_cast<float>(kBuckets - 1) ? static_cast<size_t>(depth) : kBuckets - 1;
  }

  std::vector<Candidate> members(size_t wanted) const {
    std::vector<Candidate> c = scores_.where([&](float logit) { return bucket(logit) <= wanted; },
                                             [&](float logit) { return bucket(logit) == wanted; });
    weigh_candidates(c);
    return c;
  }

  // Top-p alone: whole buckets are weighed, and only the one in which the nucleus ends and the one in which
  // the draw ends are looked into.
  int32_t from_nucleus(double u) const {
    std::vector<double> buckets(kBuckets, 0.0);
    for_blocks(0, scores_.vocab(), [&](int32_t begin, const float* w, int32_t n) {
      for (int32_t i = 0; i < n; ++i)
        buckets[bucket(scores_.logits()[begin + i])] += static_cast<double>(w[i]);
    });
    const double total = std::accumulate(buckets.begin(), buckets.end(), 0.0);
    const auto [last, last_target] = find(buckets, static_cast<double>(params_.top_p) * total);
    std::vector<Candidate> edge = members(last);
    edge.resize(shortest_prefix(edge, edge.size(), last_target));
    buckets.resize(last + 1);
    buckets[last] = mass(edge, edge.size());
    const auto [chosen, target] = find(buckets, u * std::accumulate(buckets.begin(), buckets.end(), 0.0));
    std::vector<Candidate> c = chosen == last ? std::move(edge) : members(chosen);
    return c[shortest_prefix(c, c.size(), target) - 1].token;
  }

  const SamplingParams& params_;
  const Scores& scores_;
  float max_;
  float inverse_temperature_;
};

}  // namespace

double uniform_draw(uint64_t seed, int64_t index) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t stream = mix(seed + kGolden);
  const uint64_t bits = mix(stream + kGolden * (static_cast<uint64_t>(index) + 1));
  return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
}

int32_t draw_token(const SamplingParams& params, const Scores& scores, double u) {
  return Draw(params, scores).token(u);
}

}  // namespace narrows
