// Merges the bytes of words by rank, exactly as the tokenizers library does.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "narrows/byte_pairs.h"

namespace narrows {
namespace {

/// One word at a time; what it allocates is kept for the next one.
class Merger {
 public:
  explicit Merger(const BytePairs& pairs) : pairs_(pairs) {}

  /// Appends the ids that ids [n] merge into, the lowest rank first and of equal ranks the leftmost.
  ///
  /// A queue entry is void when its symbol is gone, or when the pair that stands there by now makes another
  /// token. One that makes the same token by another merge counts: so the library has it.
  void run(size_t n, std::vector<uint32_t>& out) {
    queue_.clear();
    for (size_t i = 0; i + 1 < n; ++i) {
      if (const auto* merge = pairs_.find(symbols_[i].id, symbols_[i + 1].id)) {
        queue_.push_back({uint64_t{merge->rank} << 32 | i, merge->id});
      }
    }
    std::make_heap(queue_.begin(), queue_.end());
    while (!queue_.empty()) {
      const Candidate best = queue_.front();
      std::pop_heap(queue_.begin(), queue_.end());
      queue_.pop_back();
      apply(best);
    }
    for (int32_t i = 0; i >= 0; i = symbols_[static_cast<size_t>(i)].next) {
      out.push_back(symbols_[static_cast<size_t>(i)].id);
    }
  }

  /// The word [bytes] to come, as ids.
  void set_word(std::span<const uint32_t> bytes, std::span<const uint32_t> ids) {
    if (bytes.size() > INT32_MAX) throw std::invalid_argument("a word is longer than 2 GB");
    symbols_.resize(bytes.size());
    const auto n = static_cast<int32_t>(bytes.size());
    for (int32_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(i);
      symbols_[at] = {ids[bytes[at]], i - 1, i + 1 < n ? i + 1 : -1};
    }
  }

 private:
  struct Symbol {
    uint32_t id;           // kNoToken: merged into the one before
    int32_t before, next;  // -1: none
  };
  struct Candidate {
    uint64_t rank_and_place;
    uint32_t id;
    bool operator<(const Candidate& other) const { return rank_and_place > other.rank_and_place; }
  };

  void apply(const Candidate& best) {
    const auto at = static_cast<int32_t>(best.rank_and_place & UINT32_MAX);
    Symbol& left = symbols_[static_cast<size_t>(at)];
    if (left.id == kNoToken || left.next < 0) return;
    Symbol& right = symbols_[static_cast<size_t>(left.next)];
    const auto* merge = pairs_.find(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) return;
    left.id = best.id;
    left.next = right.next;
    right.id = kNoToken;
    if (left.next >= 0) symbols_[static_cast<size_t>(left.next)].before = at;
    if (left.before >= 0) propose(left.before);
    if (left.next >= 0) propose(at);
  }

  void propose(int32_t at) {
    const Symbol& left = symbols_[static_cast<size_t>(at)];
    const auto* merge = pairs_.find(left.id, symbols_[static_cast<size_t>(left.next)].id);
    if (merge == nullptr) return;
    queue_.push_back({uint64_t{merge->rank} << 32 | static_cast<uint32_t>(at), merge->id});
    std::push_heap(queue_.begin(), queue_.end());
  }

  const BytePairs& pairs_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> queue_;
};

}  // namespace

std::optional<uint32_t> BytePairs::whole_word(std::span<const uint32_t> bytes,
                                              std::vector<char>& buffer) const {
  buffer.clear();
  for (const uint32_t byte : bytes) {
    const std::string_view symbol = *text(symbols_[byte]);  // each byte has one: checked when opened
    buffer.insert(buffer.end(), symbol.begin(), symbol.end());
  }
  return id({buffer.data(), buffer.size()});
}

void BytePairs::encode(std::span<const uint32_t> symbols, std::span<const int32_t> words,
                       std::vector<uint32_t>& out) const {
  Merger merger(*this);
  std::vector<char> buffer;
  for (size_t begin = 0, end = 0; begin < symbols.size(); begin = end) {
    end = begin + 1;
    if (symbols[begin] >= kBytes) {
      const uint32_t other = symbols[begin] - kBytes;
      if (other >= others_.size() || others_[other] == kNoToken) {
        throw std::invalid_argument("symbol " + std::to_string(symbols[begin]) + " has no token");
      }
      out.push_back(others_[other]);
      continue;
    }
    while (words[begin] >= 0 && end < symbols.size() && words[end] == words[begin] && symbols[end] < kBytes) {
      ++end;
    }
    const auto word = symbols.subspan(begin, end - begin);
    if (const auto whole = whole_words_ ? whole_word(word, buffer) : std::nullopt) {
      out.push_back(*whole);
      continue;
    }
    merger.set_word(word, symbols_);
    merger.run(word.size(), out);
  }
}

}  // namespace narrows
