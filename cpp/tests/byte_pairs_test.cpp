// Byte-pair encoding: what a plain quadratic merge gives, for random vocabularies and words of every length;
// texts and ids find each other; damaged tables are refused and never crash.
#include "narrows/byte_pairs.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>

#include "check.h"
#include "linear_fixture.h"

namespace {

using namespace narrows;
using fixture::Random;
using Pair = std::pair<uint32_t, uint32_t>;

/// The text of a byte alone: one or two bytes of UTF-8, as in a byte-level vocabulary.
std::string byte_text(uint32_t byte) {
  if (byte < 0x80) return std::string(1, static_cast<char>(byte));
  return {static_cast<char>(0xc0 | byte >> 6), static_cast<char>(0x80 | (byte & 0x3f))};
}

/// A vocabulary with random ids, some of them unused, and random merges of its tokens.
struct Vocabulary {
  std::map<std::string, uint32_t> ids;
  std::vector<std::string> texts;  // in the order of `order`
  std::vector<uint32_t> order, merges, symbols, others = {900'001, kNoToken, 7};
  std::vector<uint8_t> tables;
  bool whole_words;

  Vocabulary(uint32_t seed, int num_merges, int letters, bool whole = false) : whole_words(whole) {
    Random random(seed);
    std::vector<uint32_t> free(static_cast<size_t>(2 * (256 + num_merges)));
    std::iota(free.begin(), free.end(), 0u);
    std::shuffle(free.begin(), free.end(), random.engine);
    for (uint32_t byte = 0; byte < kBytes; ++byte) symbols.push_back(add(byte_text(byte), free));
    std::vector<std::string> parts;
    for (int i = 0; i < letters; ++i) parts.push_back(byte_text(static_cast<uint32_t>('a' + i)));
    for (int i = 0; i < num_merges; ++i) {
      const std::string left = parts[static_cast<size_t>(random.below(static_cast<int>(parts.size())))];
      const std::string right = parts[static_cast<size_t>(random.below(static_cast<int>(parts.size())))];
      const uint32_t id = ids.contains(left + right) ? ids[left + right] : add(left + right, free);
      merges.insert(merges.end(), {ids[left], ids[right], id});  // now and then a pair for the second time
      parts.push_back(left + right);
    }
    pack();
  }

  uint32_t add(const std::string& text, std::vector<uint32_t>& free) {
    ids[text] = free.back();
    order.push_back(free.back());
    texts.push_back(text);
    free.pop_back();
    return order.back();
  }

  void pack() {
    std::string joined;
    std::vector<uint32_t> sizes;
    for (const std::string& text : texts) {
      joined += text;
      sizes.push_back(static_cast<uint32_t>(text.size()));
    }
    tables = pack_byte_pairs({.texts = joined,
                              .text_sizes = sizes,
                              .ids = order,
                              .merges = merges,
                              .symbols = symbols,
                              .others = others,
                              .whole_words = whole_words});
  }

  BytePairs open() const { return BytePairs(tables.data(), static_cast<int64_t>(tables.size())); }

  /// The lowest rank first, of equal ranks the leftmost, until nothing merges.
  std::vector<uint32_t> plain(const std::vector<uint32_t>& word) const {
    std::map<Pair, Pair> known;
    for (uint32_t i = 0; i < merges.size() / 3; ++i) {
      known[{merges[3 * i], merges[3 * i + 1]}] = {i, merges[3 * i + 2]};
    }
    std::string whole;
    std::vector<uint32_t> out;
    for (const uint32_t byte : word) {
      out.push_back(symbols[byte]);
      whole += byte_text(byte);
    }
    if (whole_words && ids.contains(whole)) return {ids.at(whole)};
    for (;;) {
      size_t place = out.size();
      Pair best = {UINT32_MAX, 0};
      for (size_t i = 0; i + 1 < out.size(); ++i) {
        const auto found = known.find({out[i], out[i + 1]});
        if (found == known.end() || found->second.first >= best.first) continue;
        best = found->second;
        place = i;
      }
      if (place == out.size()) return out;
      out[place] = best.second;
      out.erase(out.begin() + static_cast<int64_t>(place) + 1);
    }
  }
};

std::vector<uint32_t> random_word(Random& random, size_t size, int letters) {
  std::vector<uint32_t> word(size);
  for (uint32_t& byte : word) byte = static_cast<uint32_t>('a' + random.below(letters));
  return word;
}

std::vector<uint32_t> encode(const BytePairs& pairs, const std::vector<uint32_t>& symbols,
                             const std::vector<int32_t>& words) {
  std::vector<uint32_t> out;
  pairs.encode(symbols, words, out);
  return out;
}

std::vector<uint32_t> encode_word(const BytePairs& pairs, const std::vector<uint32_t>& word) {
  return encode(pairs, word, std::vector<int32_t>(word.size(), 3));
}

/// What opening says, or "".
std::string refused(const std::vector<uint8_t>& tables, size_t begin = 0) {
  try {
    const BytePairs pairs(tables.data() + begin, static_cast<int64_t>(tables.size() - begin));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(words_merge_as_a_plain_loop_merges_them) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const int letters = 1 + static_cast<int>(seed % 4);
    const Vocabulary vocabulary(seed, static_cast<int>(seed * 2), letters, seed % 3 == 0);
    const BytePairs pairs = vocabulary.open();
    Random random(seed + 100);
    for (size_t size = 0; size < 40; ++size) {
      for (int i = 0; i < 5; ++i) {
        const std::vector<uint32_t> word = random_word(random, size, letters);
        CHECK(encode_word(pairs, word) == (size == 0 ? std::vector<uint32_t>{} : vocabulary.plain(word)));
      }
    }
  }
}

TEST(words_end_where_the_words_say_and_other_symbols_stand_alone) {
  const Vocabulary vocabulary(5, 60, 2);
  const BytePairs pairs = vocabulary.open();
  Random random(6);
  for (int i = 0; i < 300; ++i) {
    std::vector<uint32_t> symbols, expected;
    std::vector<int32_t> words;
    for (int32_t word = 0; word < 6; ++word) {
      const std::vector<uint32_t> bytes = random_word(random, 1 + static_cast<size_t>(random.below(9)), 2);
      const bool alone = random.below(4) == 0;
      for (const uint32_t byte : bytes) {
        symbols.push_back(byte);
        words.push_back(alone ? -1 : word);
        if (alone) expected.push_back(vocabulary.symbols[byte]);
      }
      const std::vector<uint32_t> merged = vocabulary.plain(bytes);
      if (!alone) expected.insert(expected.end(), merged.begin(), merged.end());
      if (random.below(3) == 0) {  // in the middle of nothing, or with the number of its neighbour
        symbols.push_back(kBytes + 2);
        words.push_back(random.below(2) == 0 ? -1 : word);
        expected.push_back(7);
      }
    }
    CHECK(encode(pairs, symbols, words) == expected);
  }
  CHECK(encode(pairs, {kBytes}, {0}) == std::vector<uint32_t>{900'001});
  for (const uint32_t symbol : {kBytes + 1, kBytes + 3, UINT32_MAX}) {
    bool threw = false;
    try {
      encode(pairs, {'a', symbol}, {0, 1});
    } catch (const std::invalid_argument&) {
      threw = true;
    }
    CHECK(threw);
  }
}

TEST(a_word_of_a_million_bytes_takes_no_quadratic_time) {
  const Vocabulary vocabulary(8, 300, 3);
  const BytePairs pairs = vocabulary.open();
  Random random(9);
  const std::vector<uint32_t> word = random_word(random, 1'000'000, 3);
  const std::vector<uint32_t> ids = encode_word(pairs, word);
  std::string text, expected;
  for (const uint32_t id : ids) text += *pairs.text(id);
  for (const uint32_t byte : word) expected += byte_text(byte);
  CHECK(text == expected);
  CHECK(ids.size() < word.size());
  const std::vector<uint32_t> same(1'000'000, 'a');
  CHECK(encode_word(pairs, same).size() <= same.size());
}

TEST(texts_and_ids_find_each_other) {
  const Vocabulary vocabulary(10, 500, 4);
  const BytePairs pairs = vocabulary.open();
  std::map<uint32_t, std::string> by_id;
  for (const auto& [text, id] : vocabulary.ids) by_id[id] = text;
  for (int64_t id = -3; id < 2000; ++id) {
    const auto found = by_id.find(static_cast<uint32_t>(id));
    CHECK(pairs.text(id) ==
          (id < 0 || found == by_id.end() ? std::nullopt : std::optional<std::string_view>(found->second)));
  }
  CHECK(!pairs.text(INT64_MAX) && !pairs.text(INT64_MIN) && !pairs.text(int64_t{1} << 32));
  for (const auto& [text, id] : vocabulary.ids) {
    CHECK(pairs.id(text) == id);
    const std::string longer = text + "!";
    CHECK(pairs.id(longer).has_value() == vocabulary.ids.contains(longer));
  }
  CHECK(!pairs.id(""));
  CHECK(!BytePairs().text(0) && !BytePairs().id("a"));
}

TEST(tables_without_merges_or_of_other_bytes_are_handled) {
  const Vocabulary vocabulary(11, 0, 1);
  const BytePairs pairs = vocabulary.open();
  CHECK(encode_word(pairs, {'a', 'a', 0, 255}) ==
        std::vector<uint32_t>({vocabulary.symbols['a'], vocabulary.symbols['a'], vocabulary.symbols[0],
                               vocabulary.symbols[255]}));
  CHECK(contains(refused({}), "too early"));
  CHECK(contains(refused(std::vector<uint8_t>(4096)), "of another kind"));
  std::vector<uint8_t> moved(1);
  moved.insert(moved.end(), vocabulary.tables.begin(), vocabulary.tables.end());
  CHECK(contains(refused(moved, 1), "not aligned"));
  std::vector<uint8_t> longer = vocabulary.tables;
  longer.push_back(0);
  CHECK(contains(refused(longer), "too late"));
  longer.pop_back();
  longer.pop_back();
  CHECK(contains(refused(longer), "too early"));
}

TEST(damaged_tables_are_refused_or_harmless) {
  const Vocabulary vocabulary(12, 40, 2, true);
  Random random(13);
  const std::vector<uint32_t> word = random_word(random, 50, 2);
  int num_refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::vector<uint8_t> tables = vocabulary.tables;
    const int limit = static_cast<int>(i % 2 == 0 ? tables.size() : 64);  // every second one in the header
    for (int changes = 1 + random.below(3); changes > 0; --changes) {
      tables[static_cast<size_t>(random.below(limit))] = static_cast<uint8_t>(random.below(256));
    }
    if (!refused(tables).empty()) {
      ++num_refused;
      continue;
    }
    const BytePairs pairs(tables.data(), static_cast<int64_t>(tables.size()));
    encode_word(pairs, word);
    for (int64_t id = 0; id < 700; ++id) {
      if (const auto text = pairs.text(id)) pairs.id(*text);
    }
  }
  CHECK(num_refused > 1000);
}

TEST(full_tables_are_refused) {
  const Vocabulary vocabulary(14, 6, 2);
  const uint32_t merge_slots = 16;
  std::vector<uint8_t> full = vocabulary.tables;
  for (uint32_t slot = 0; slot < merge_slots; ++slot) std::memset(full.data() + 64 + 16 * slot, 0, 4);
  CHECK(contains(refused(full), "the table of merges is full"));
}
