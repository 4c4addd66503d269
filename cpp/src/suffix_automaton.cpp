#include <algorithm>

#include "narrows/drafter.h"

namespace narrows {
namespace {

constexpr int32_t kRefreshed = 8;  // states that learn of a token's repetition: bounds the work a token
constexpr int32_t kNone = -1;
constexpr size_t kFirstSlots = 64;  // a power of two

size_t hash_of(int32_t state, int32_t token) {
  uint64_t x = static_cast<uint64_t>(static_cast<uint32_t>(state)) << 32 | static_cast<uint32_t>(token);
  x *= 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio (Knuth)
  return static_cast<size_t>(x ^ x >> 32);
}

}  // namespace

SuffixAutomaton::SuffixAutomaton() : states_(1), slots_(kFirstSlots, kNone) {}

void SuffixAutomaton::extend(const int32_t* tokens, int64_t count) {
  for (int64_t i = 0; i < count; ++i) append(tokens[i]);
}

void SuffixAutomaton::append(int32_t token) {
  text_.push_back(token);
  const int32_t end = static_cast<int32_t>(text_.size());
  const int32_t added = static_cast<int32_t>(states_.size());
  states_.push_back({end, kNone, end, kNone});
  int32_t state = last_;
  Edge* edge = nullptr;
  for (; state != kNone && (edge = find(state, token)) == nullptr; state = states_[state].link) {
    connect(state, token, added);
  }
  last_ = added;
  const int32_t link = state == kNone ? 0 : split(state, token, edge->to);
  states_[added].link = link;
  match_ = {states_[link].length, states_[link].end};
  for (int32_t i = 0, s = link; i < kRefreshed && s > 0; ++i, s = states_[s].link) states_[s].end = end;
}

/// The state of `parent`'s longest string + token: `state` itself, or a copy of it for the shorter strings.
int32_t SuffixAutomaton::split(int32_t parent, int32_t token, int32_t state) {
  const int32_t length = states_[parent].length + 1;
  if (states_[state].length == length) return state;
  const int32_t copy = static_cast<int32_t>(states_.size());
  states_.push_back({length, states_[state].link, states_[state].end, kNone});
  states_[state].link = copy;
  for (int32_t e = states_[state].edges; e != kNone; e = edges_[e].sibling) {
    connect(copy, edges_[e].token, edges_[e].to);
  }
  for (; parent != kNone; parent = states_[parent].link) {
    Edge* edge = find(parent, token);
    if (edge == nullptr || edge->to != state) break;
    edge->to = copy;
  }
  return copy;
}

SuffixAutomaton::Edge* SuffixAutomaton::find(int32_t state, int32_t token) {
  for (size_t i = hash_of(state, token) & (slots_.size() - 1); slots_[i] != kNone;
       i = (i + 1) & (slots_.size() - 1)) {
    Edge& edge = edges_[slots_[i]];
    if (edge.from == state && edge.token == token) return &edge;
  }
  return nullptr;
}

void SuffixAutomaton::connect(int32_t from, int32_t token, int32_t to) {
  if (edges_.size() * 2 >= slots_.size()) rehash();
  const int32_t number = static_cast<int32_t>(edges_.size());
  edges_.push_back({from, token, to, states_[from].edges});
  states_[from].edges = number;
  size_t i = hash_of(from, token) & (slots_.size() - 1);
  while (slots_[i] != kNone) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = number;
}

void SuffixAutomaton::rehash() {
  slots_.assign(slots_.size() * 2, kNone);
  for (size_t number = 0; number < edges_.size(); ++number) {
    size_t i = hash_of(edges_[number].from, edges_[number].token) & (slots_.size() - 1);
    while (slots_[i] != kNone) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = static_cast<int32_t>(number);
  }
}

int64_t SuffixAutomaton::bytes() const {
  return static_cast<int64_t>(text_.capacity() * sizeof(int32_t) + states_.capacity() * sizeof(State) +
                              edges_.capacity() * sizeof(Edge) + slots_.capacity() * sizeof(int32_t));
}

}  // namespace narrows
