// The drafter against a search through the whole text.
#include "narrows/drafter.h"

#include <algorithm>
#include <random>

#include "check.h"

using namespace narrows;

namespace {

using Tokens = std::vector<int32_t>;

/// The length of the longest suffix of `text` that also ends earlier.
int32_t longest_repeat(const Tokens& text) {
  const int64_t size = static_cast<int64_t>(text.size());
  int32_t longest = 0;
  for (int64_t end = 1; end < size; ++end) {
    int32_t length = 0;
    while (length < end && text[end - 1 - length] == text[size - 1 - length]) ++length;
    longest = std::max(longest, length);
  }
  return longest;
}

/// Random words over a small alphabet with copies of earlier pieces in between.
Tokens random_text(uint32_t seed, int32_t alphabet, size_t size) {
  std::mt19937 random(seed);
  Tokens text;
  while (text.size() < size) {
    if (text.size() > 4 && random() % 3 == 0) {
      const size_t from = random() % text.size(), count = random() % 12;
      for (size_t i = from; i < from + count; ++i) text.push_back(text[i]);
    } else {
      text.push_back(static_cast<int32_t>(random() % alphabet));
    }
  }
  return text;
}

bool stands_at(const Tokens& text, const Match& match) {
  const int64_t size = static_cast<int64_t>(text.size());
  if (match.next < match.length || match.next >= size) return false;
  return std::equal(text.end() - match.length, text.end(), text.begin() + match.next - match.length);
}

}  // namespace

TEST(the_longest_repeat_is_found_after_every_token) {
  for (const int32_t alphabet : {1, 2, 3, 10, 100000}) {
    for (uint32_t seed = 0; seed < 6; ++seed) {
      SuffixAutomaton automaton;
      Tokens text;
      for (const int32_t token : random_text(seed, alphabet, 220)) {
        text.push_back(token);
        automaton.extend(&token, 1);
        const Match match = automaton.match();
        CHECK(match.length == longest_repeat(text));
        if (match.length > 0) CHECK(stands_at(text, match));
      }
    }
  }
}

TEST(pieces_or_single_tokens_make_the_same_automaton) {
  const Tokens text = random_text(3, 5, 3000);
  SuffixAutomaton whole, pieces;
  whole.extend(text.data(), static_cast<int64_t>(text.size()));
  for (size_t i = 0; i < text.size(); i += 7) {
    pieces.extend(text.data() + i, static_cast<int64_t>(std::min<size_t>(7, text.size() - i)));
  }
  CHECK(whole.match().length == pieces.match().length && whole.match().next == pieces.match().next);
  CHECK(whole.text() == pieces.text());
}

TEST(the_memory_is_bounded_by_the_text) {
  for (const int32_t alphabet : {1, 2, 50, 100000}) {
    SuffixAutomaton automaton;
    const Tokens text = random_text(1, alphabet, 20000);
    automaton.extend(text.data(), static_cast<int64_t>(text.size()));
    CHECK(automaton.bytes() <= 2 * 108 * static_cast<int64_t>(text.size()) + 4096);
  }
}

TEST(a_loop_is_followed_around) {
  Drafter drafter(nullptr, nullptr);
  const Tokens text = {9, 1, 2, 3, 1, 2, 3, 1};
  drafter.read(text.data(), static_cast<int64_t>(text.size()));
  std::vector<double> chances;
  CHECK(drafter.draft(5, chances) == Tokens({2, 3, 1, 2, 3}));
  CHECK(drafter.match_length() == 4);
}

TEST(nothing_comes_of_a_text_without_repeats) {
  Drafter drafter(nullptr, nullptr);
  std::vector<double> chances;
  CHECK(drafter.draft(4, chances).empty() && drafter.match_length() == 0);
  const Tokens text = {1, 2, 3};
  drafter.read(text.data(), 3);
  CHECK(drafter.draft(4, chances).empty() && drafter.match_length() == 0);
  CHECK(drafter.follow(nullptr, 0, 4) == 0);
}

TEST(a_later_place_goes_before_an_earlier_one) {
  Drafter drafter(nullptr, nullptr);
  const Tokens text = {5, 6, 7, 1, 5, 6, 7, 2, 8, 5, 6, 7};
  drafter.read(text.data(), static_cast<int64_t>(text.size()));
  std::vector<double> chances;
  CHECK(drafter.draft(2, chances) == Tokens({2, 8}));
  CHECK(drafter.match_length() == 3);
}

TEST(recent_outputs_are_found_and_the_oldest_forgotten) {
  RecentOutputs recent(64);
  const int64_t bytes = recent.bytes();
  const Tokens first = {1, 2, 3, 4, 5, 6, 7};
  recent.add(first.data(), 7);
  Drafter drafter(nullptr, &recent);
  const Tokens text = {90, 2, 3, 4, 5};
  drafter.read(text.data(), 5);
  std::vector<double> chances;
  CHECK(drafter.draft(8, chances) == Tokens({6, 7}));  // up to the end of that output
  CHECK(drafter.match_length() == 4);
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Tokens other = random_text(seed, 100000, 15);
    recent.add(other.data(), 15);
  }
  Drafter later(nullptr, &recent);
  later.read(text.data(), 5);
  CHECK(later.draft(8, chances).empty());
  for (const int32_t guess : drafter.draft(8, chances)) CHECK(guess >= 0);  // its place is overwritten
  CHECK(recent.bytes() == bytes);
}

TEST(an_own_repeat_goes_before_a_shorter_one_elsewhere) {
  RecentOutputs recent(64);
  const Tokens other = {3, 4, 5, 6, 77};
  recent.add(other.data(), 5);
  Drafter drafter(nullptr, &recent);
  const Tokens text = {2, 3, 4, 5, 6, 88, 1, 2, 3, 4, 5, 6};
  drafter.read(text.data(), static_cast<int64_t>(text.size()));
  std::vector<double> chances;
  CHECK(drafter.draft(1, chances) == Tokens({88}));
  CHECK(drafter.match_length() == 5);
}

TEST(recent_outputs_of_any_length_are_taken) {
  RecentOutputs recent(8);
  std::mt19937 random(1);
  Drafter drafter(nullptr, &recent);
  for (int32_t i = 0; i < 300; ++i) {
    const Tokens output = random_text(i, 3, random() % 30);
    recent.add(output.data(), static_cast<int64_t>(output.size()));
    const int32_t token = static_cast<int32_t>(random() % 3);
    drafter.read(&token, 1);
    std::vector<double> chances;
    for (const int32_t guess : drafter.draft(5, chances)) CHECK(guess >= 0 && guess < 3);
  }
}

TEST(chances_follow_what_was_right) {
  Chances chances(0.9);
  CHECK_NEAR(chances.chance(5, 0.5), 0.5, 1e-12);
  for (int i = 0; i < 50; ++i) chances.add(5, true);
  CHECK(chances.chance(5, 0.5) > 0.8);
  CHECK_NEAR(chances.chance(9, 0.5), 0.5, 1e-12);
  for (int i = 0; i < 50; ++i) chances.add(5, false);
  CHECK(chances.chance(5, 0.5) < 0.2);
  for (int32_t length = 1; length < 100; ++length)
    CHECK(Chances::prior(length) <= Chances::prior(length + 1));
}

TEST(what_is_expected_grows_with_a_copy_and_falls_where_it_ends) {
  Chances everyone(0.99);
  Drafter drafter(&everyone, nullptr);
  Tokens text;
  for (int32_t i = 0; i < 60; ++i) text.push_back(i);
  drafter.read(text.data(), 60);
  CHECK(drafter.follow(text.data(), 1, 15) < 1);
  CHECK(drafter.follow(text.data() + 1, 39, 15) > 5);
  std::vector<double> chances;
  CHECK(drafter.draft(4, chances) == Tokens({40, 41, 42, 43}));
  CHECK(chances.size() == 4 && chances[0] < 1 && chances[3] < chances[0]);
  const Tokens other = {7, 9, 7, 3, 7, 12, 7, 8, 7, 2, 7, 5};
  CHECK(drafter.follow(other.data(), 12, 15) < 0.5);
}
