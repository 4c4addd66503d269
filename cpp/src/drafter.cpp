#include "narrows/drafter.h"

#include <algorithm>

namespace narrows {

RecentOutputs::RecentOutputs(int32_t capacity) : capacity_(capacity), ring_(capacity, kEnd) {
  size_t slots = 1;
  while (slots < 2 * static_cast<size_t>(capacity)) slots *= 2;
  slots_.assign(slots, 0);
}

/// Where the gram whose last token is before(1), the one before it before(2), ... is noted.
template <typename TokenBefore>
size_t RecentOutputs::slot(const TokenBefore& before) const {
  uint64_t x = 0;
  for (int32_t i = 1; i <= kGram; ++i) x = (x ^ static_cast<uint32_t>(before(i))) * 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(x >> 20) & (slots_.size() - 1);
}

void RecentOutputs::push(int32_t token) {
  ring_[written_ % capacity_] = token;
  ++written_;
}

void RecentOutputs::add(const int32_t* tokens, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    push(tokens[i]);
    if (i + 1 < kGram) continue;
    slots_[slot([&](int32_t back) { return tokens[i + 1 - back]; })] = written_;
  }
  push(kEnd);
}

Match RecentOutputs::match(const std::vector<int32_t>& text) const {
  const int64_t size = static_cast<int64_t>(text.size());
  if (size < kGram) return {};
  const int64_t next = slots_[slot([&](int32_t back) { return text[size - back]; })];
  int32_t length = 0;
  while (length < kLongest && length < size && holds(next - 1 - length) &&
         at(next - 1 - length) == text[size - 1 - length]) {
    ++length;
  }
  if (length < kGram || !holds(next) || at(next) == kEnd) return {};
  return {length, next};
}

std::vector<int32_t> RecentOutputs::read(int64_t next, int32_t most) const {
  std::vector<int32_t> tokens;
  for (; static_cast<int32_t>(tokens.size()) < most && holds(next) && at(next) != kEnd; ++next) {
    tokens.push_back(at(next));
  }
  return tokens;
}

int64_t RecentOutputs::bytes() const {
  return static_cast<int64_t>(ring_.size() * sizeof(int32_t) + slots_.size() * sizeof(int64_t));
}

int32_t Chances::bucket(int32_t length) {
  constexpr std::array<int32_t, kLengths> least = {1, 2, 3, 4, 6, 8, 12, 16, 32};
  int32_t found = 0;
  while (found + 1 < kLengths && least[found + 1] <= length) ++found;
  return found;
}

double Chances::prior(int32_t length) {
  constexpr std::array<double, kLengths> of = {0.10, 0.20, 0.35, 0.50, 0.60, 0.70, 0.80, 0.85, 0.90};
  return of[bucket(length)];
}

void Chances::add(int32_t length, bool right) {
  const int32_t i = bucket(length);
  all_[i] = all_[i] * memory_ + 1;
  right_[i] = right_[i] * memory_ + (right ? 1 : 0);
}

double Chances::chance(int32_t length, double prior) const {
  constexpr double kPriorWeight = 4;
  const int32_t i = bucket(length);
  return (right_[i] + kPriorWeight * prior) / (all_[i] + kPriorWeight);
}

void Drafter::read(const int32_t* tokens, int64_t count) {
  own_.extend(tokens, count);
  choose_source();
}

double Drafter::follow(const int32_t* tokens, int64_t count, int32_t most) {
  for (int64_t i = 0; i < count; ++i) {
    if (match_.length > 0) {
      chances_.add(match_.length, tokens[i] == guess_);
      if (everyone_ != nullptr) everyone_->add(match_.length, tokens[i] == guess_);
    }
    own_.extend(tokens + i, 1);
    choose_source();
  }
  if (match_.length == 0) return 0;
  double expected = 0, reached = 1;
  for (int32_t i = 0; i < most; ++i) {
    reached *= chance(match_.length + i);
    if (reached < kLeast) break;
    expected += reached;
  }
  return expected;
}

void Drafter::choose_source() {
  match_ = own_.match();
  is_recent_ = false;
  if (recent_ != nullptr) {
    const Match other = recent_->match(own_.text());
    is_recent_ = other.length > match_.length;
    if (is_recent_) match_ = other;
  }
  if (match_.length == 0) return;
  guess_ = is_recent_ ? recent_->read(match_.next, 1)[0] : own_.text()[match_.next];
}

double Drafter::chance(int32_t length) const {
  const double prior = Chances::prior(length);
  return chances_.chance(length, everyone_ != nullptr ? everyone_->chance(length, prior) : prior);
}

std::vector<int32_t> Drafter::draft(int32_t most, std::vector<double>& chances) const {
  chances.clear();
  std::vector<int32_t> tokens;
  if (match_.length == 0) return tokens;
  if (is_recent_) tokens = recent_->read(match_.next, most);
  const std::vector<int32_t>& text = own_.text();
  const int64_t size = static_cast<int64_t>(text.size());
  double reached = 1;
  for (int32_t i = 0; i < (is_recent_ ? static_cast<int32_t>(tokens.size()) : most); ++i) {
    reached *= chance(match_.length + i);
    if (reached < kLeast) break;
    chances.push_back(reached);
    const int64_t from = match_.next + i;
    // Past the end of the text the guess goes on with itself: a loop is followed around.
    if (!is_recent_) tokens.push_back(from < size ? text[from] : tokens[from - size]);
  }
  tokens.resize(chances.size());
  return tokens;
}

}  // namespace narrows
