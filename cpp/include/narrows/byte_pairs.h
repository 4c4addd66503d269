// Byte-pair encoding from tables that are built once and afterwards only viewed where they lie, as in a
// mapped file: opening them takes no longer than looking at them once.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace narrows {

/// A vocabulary and its merges, as the tables are built from them.
struct BytePairSource {
  std::string_view texts;                // of all tokens, one after the other, UTF-8
  std::span<const uint32_t> text_sizes;  // [tokens], in bytes
  std::span<const uint32_t> ids;         // [tokens], distinct
  std::span<const uint32_t> merges;      // [merges][3]: left, right, new id; lowest rank first
  std::span<const uint32_t> symbols;     // [256]: the id of each byte alone
  std::span<const uint32_t> others;      // ids of what is no byte: symbol 256 + i; kNoToken: none
  bool whole_words = false;              // a word in the vocabulary is taken as it is, merges or not
};

inline constexpr uint32_t kNoToken = UINT32_MAX;
inline constexpr uint32_t kBytes = 256;
inline constexpr uint32_t kMaxTokenIds = 1u << 27;  // ids are below this

/// The tables as bytes. Trusts its input: sizes fit each other, every id of `ids`, `merges` and `symbols` is
/// below kMaxTokenIds, and symbols and merges name ids of `ids`. Of equal pairs the last merge counts, as in
/// the tokenizers library.
std::vector<uint8_t> pack_byte_pairs(const BytePairSource& source);

/// A view of such bytes, checked when made: damaged tables are refused, and can make no call fail that reads
/// them. Threads may share one.
class BytePairs {
 public:
  BytePairs() = default;
  /// Throws std::invalid_argument for bytes that are no such tables. They must outlive this.
  BytePairs(const uint8_t* data, int64_t bytes);

  /// The text of a token; none for ids without a token.
  std::optional<std::string_view> text(int64_t id) const;
  /// The id of a token by its whole text.
  std::optional<uint32_t> id(std::string_view text) const;

  /// Appends the ids of symbols [n] (a byte, or 256 + i for the i-th of `others`), which words [n] say belong
  /// together: neighbours of the same word merge, and a negative word is a symbol alone. Throws
  /// std::invalid_argument for symbols that are neither. O(n log n), also for a single word.
  void encode(std::span<const uint32_t> symbols, std::span<const int32_t> words,
              std::vector<uint32_t>& out) const;

  struct Merge {
    uint32_t left, right, rank, id;  // left is kNoToken in an empty slot
  };
  /// The merge of two neighbours, or null.
  const Merge* find(uint32_t left, uint32_t right) const;

 private:
  struct Text {
    uint32_t begin, size;  // size is kNoToken where there is no token of this id
  };
  void check_merges() const;
  void check_texts() const;
  std::optional<uint32_t> whole_word(std::span<const uint32_t> bytes, std::vector<char>& text) const;

  std::span<const Merge> merges_;         // open addressing; a power of two, one slot empty at least
  std::span<const Text> texts_;           // by id
  std::span<const uint32_t> text_slots_;  // ids by hash of their text, likewise
  std::span<const uint32_t> symbols_, others_;
  const char* characters_ = nullptr;
  uint32_t num_characters_ = 0;
  bool whole_words_ = false;

  friend std::vector<uint8_t> pack_byte_pairs(const BytePairSource& source);
};

}  // namespace narrows
