// Tables of byte pairs: built, checked and looked up. byte_pairs_encode.cpp merges with them.
#include "narrows/byte_pairs.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace narrows {
namespace {

constexpr uint32_t kMagic = 0x5042524e;  // "NRBP"
constexpr uint32_t kVersion = 1;

/// The bytes begin with this; then come merges, texts, text slots, symbols, others and characters.
struct Header {
  uint32_t magic, version, merge_slots, num_ids, text_slots, num_others, num_characters, whole_words;
  uint32_t reserved[8];
};

[[noreturn]] void damaged(const char* what) {
  throw std::invalid_argument(std::string("byte-pair tables are damaged: ") + what);
}

uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

uint64_t hash_pair(uint32_t left, uint32_t right) { return mixed((uint64_t{left} << 32 | right) + 1); }

uint64_t hash_text(std::string_view text) {
  uint64_t hash = text.size();
  while (!text.empty()) {
    uint64_t word = 0;
    const size_t size = std::min<size_t>(text.size(), 8);
    std::memcpy(&word, text.data(), size);
    hash = mixed((hash ^ word) * 0x9e3779b97f4a7c15u);
    text.remove_prefix(size);
  }
  return hash;
}

/// Room for half as many again at least, so that looking for what is not there ends soon.
uint32_t num_slots(size_t entries) { return std::bit_ceil(static_cast<uint32_t>(entries) * 3 / 2 + 2); }

/// Hands out the parts of a range one after the other.
class Parts {
 public:
  Parts(const uint8_t* data, int64_t bytes) : at_(data), end_(data + bytes) {}

  template <typename T>
  std::span<const T> take(uint32_t count) {
    if (static_cast<uint64_t>(end_ - at_) < uint64_t{count} * sizeof(T)) damaged("they end too early");
    const auto* begin = reinterpret_cast<const T*>(at_);
    at_ += uint64_t{count} * sizeof(T);
    return {begin, count};
  }
  bool at_end() const { return at_ == end_; }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

template <typename T>
void append(std::vector<uint8_t>& bytes, const T* items, size_t count) {
  const size_t begin = bytes.size();
  bytes.resize(begin + count * sizeof(T));
  if (count > 0) std::memcpy(bytes.data() + begin, items, count * sizeof(T));
}

std::vector<BytePairs::Merge> merge_table(std::span<const uint32_t> merges) {
  const size_t count = merges.size() / 3;
  std::vector<BytePairs::Merge> table(num_slots(count), {kNoToken, 0, 0, 0});
  for (uint32_t rank = 0; rank < count; ++rank) {
    const uint32_t left = merges[3 * rank], right = merges[3 * rank + 1], id = merges[3 * rank + 2];
    size_t slot = hash_pair(left, right) & (table.size() - 1);
    while (table[slot].left != kNoToken && !(table[slot].left == left && table[slot].right == right)) {
      slot = (slot + 1) & (table.size() - 1);
    }
    table[slot] = {left, right, rank, id};
  }
  return table;
}

}  // namespace

std::vector<uint8_t> pack_byte_pairs(const BytePairSource& source) {
  uint32_t num_ids = 0;
  for (const uint32_t id : source.ids) num_ids = std::max(num_ids, id + 1);
  const std::vector<BytePairs::Merge> merges = merge_table(source.merges);
  std::vector<BytePairs::Text> texts(num_ids, {0, kNoToken});
  std::vector<uint32_t> slots(num_slots(source.ids.size()), kNoToken);
  uint32_t begin = 0;
  for (size_t i = 0; i < source.ids.size(); ++i) {
    const uint32_t size = source.text_sizes[i];
    texts[source.ids[i]] = {begin, size};
    size_t slot = hash_text(source.texts.substr(begin, size)) & (slots.size() - 1);
    while (slots[slot] != kNoToken) slot = (slot + 1) & (slots.size() - 1);
    slots[slot] = source.ids[i];
    begin += size;
  }
  const Header header = {.magic = kMagic,
                         .version = kVersion,
                         .merge_slots = static_cast<uint32_t>(merges.size()),
                         .num_ids = num_ids,
                         .text_slots = static_cast<uint32_t>(slots.size()),
                         .num_others = static_cast<uint32_t>(source.others.size()),
                         .num_characters = begin,
                         .whole_words = source.whole_words ? 1u : 0u,
                         .reserved = {}};
  std::vector<uint8_t> bytes;
  append(bytes, &header, 1);
  append(bytes, merges.data(), merges.size());
  append(bytes, texts.data(), texts.size());
  append(bytes, slots.data(), slots.size());
  append(bytes, source.symbols.data(), source.symbols.size());
  append(bytes, source.others.data(), source.others.size());
  append(bytes, source.texts.data(), begin);
  return bytes;
}

BytePairs::BytePairs(const uint8_t* data, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(data) % alignof(Header) != 0) damaged("they are not aligned");
  Parts parts(data, bytes);
  const Header& header = parts.take<Header>(1)[0];
  if (header.magic != kMagic || header.version != kVersion) damaged("they are of another kind");
  if (!std::has_single_bit(header.merge_slots) || !std::has_single_bit(header.text_slots)) {
    damaged("a number of slots is no power of two");
  }
  if (header.num_ids > kMaxTokenIds) damaged("there are too many ids");
  merges_ = parts.take<Merge>(header.merge_slots);
  texts_ = parts.take<Text>(header.num_ids);
  text_slots_ = parts.take<uint32_t>(header.text_slots);
  symbols_ = parts.take<uint32_t>(kBytes);
  others_ = parts.take<uint32_t>(header.num_others);
  num_characters_ = header.num_characters;
  characters_ = parts.take<char>(num_characters_).data();
  whole_words_ = header.whole_words != 0;
  if (!parts.at_end()) damaged("they end too late");
  check_texts();
  check_merges();
}

void BytePairs::check_merges() const {
  bool is_sound = true, has_empty = false;
  for (const Merge& merge : merges_) {
    const bool is_empty = merge.left == kNoToken;
    const uint32_t largest = std::max({merge.left, merge.right, merge.id});
    has_empty |= is_empty;
    is_sound &= is_empty || largest < texts_.size();
  }
  if (!is_sound) damaged("a merge names an id that does not exist");
  if (!has_empty) damaged("the table of merges is full");
}

void BytePairs::check_texts() const {
  bool is_sound = true, has_empty = false;
  for (const Text& text : texts_) {
    is_sound &= text.size == kNoToken || uint64_t{text.begin} + text.size <= num_characters_;
  }
  if (!is_sound) damaged("a text lies outside of them");
  for (const uint32_t id : text_slots_) {
    has_empty |= id == kNoToken;
    is_sound &= id == kNoToken || (id < texts_.size() && texts_[id].size != kNoToken);
  }
  for (const uint32_t id : symbols_) is_sound &= id < texts_.size() && texts_[id].size != kNoToken;
  if (!is_sound) damaged("a text or a byte names an id that does not exist");
  if (!has_empty) damaged("the table of texts is full");
}

std::optional<std::string_view> BytePairs::text(int64_t id) const {
  if (id < 0 || id >= static_cast<int64_t>(texts_.size())) return std::nullopt;
  const Text& text = texts_[static_cast<size_t>(id)];
  if (text.size == kNoToken) return std::nullopt;
  return std::string_view(characters_ + text.begin, text.size);
}

std::optional<uint32_t> BytePairs::id(std::string_view text) const {
  if (text_slots_.empty()) return std::nullopt;
  const size_t last = text_slots_.size() - 1;
  for (size_t slot = hash_text(text) & last; text_slots_[slot] != kNoToken; slot = (slot + 1) & last) {
    if (this->text(text_slots_[slot]) == text) return text_slots_[slot];
  }
  return std::nullopt;
}

const BytePairs::Merge* BytePairs::find(uint32_t left, uint32_t right) const {
  const size_t last = merges_.size() - 1;
  for (size_t slot = hash_pair(left, right) & last;; slot = (slot + 1) & last) {
    const Merge& merge = merges_[slot];
    if (merge.left == left && merge.right == right) return &merge;
    if (merge.left == kNoToken) return nullptr;
  }
}

}  // namespace narrows
