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

std::vector<int32_t> Drafter::draft(int32_t most, int32_t& length) const {
  const Match own = own_.match();
  const std::vector<int32_t>& text = own_.text();
  if (recent_ != nullptr) {
    const Match other = recent_->match(text);
    if (other.length > own.length) {
      length = other.length;
      return recent_->read(other.next, most);
    }
  }
  length = own.length;
  std::vector<int32_t> tokens;
  if (own.length == 0) return tokens;
  const int64_t size = static_cast<int64_t>(text.size());
  tokens.reserve(most);
  for (int64_t i = 0; i < most; ++i) {
    const int64_t from = own.next + i;
    // Past the end of the text the guess goes on with itself: a loop is followed around.
    tokens.push_back(from < size ? text[from] : tokens[from - size]);
  }
  return tokens;
}

}  // namespace narrows
