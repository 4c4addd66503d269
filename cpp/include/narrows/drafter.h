// Guesses what comes next in a text of tokens from what stood there before: in the same text (suffix
// automaton) or in texts kept from other requests (n-gram table). Knows no model; a wrong guess costs time,
// never a token.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace narrows {

/// A place where the last `length` tokens of a text stood before; what followed them begins at `next`.
struct Match {
  int32_t length = 0;  // 0: none
  int64_t next = 0;
};

/// All substrings of a growing text (Blumer et al. 1985; online construction), amortized O(1) a token. At
/// most 2 states and 3 edges a token: 84 bytes, and as much again while vectors and the table have room to
/// grow.
class SuffixAutomaton {
 public:
  SuffixAutomaton();
  void extend(const int32_t* tokens, int64_t count);
  /// The longest suffix of the text that stood in it before, and a late place where it did: not always the
  /// last one, as only kRefreshed states learn of a repetition.
  Match match() const { return match_; }
  const std::vector<int32_t>& text() const { return text_; }
  int64_t bytes() const;

 private:
  struct State {
    int32_t length = 0;  // of its longest string
    int32_t link = -1;   // state of the longest suffix that ends at more places
    int32_t end = 0;     // a position after one of its occurrences
    int32_t edges = -1;  // first of its list
  };
  struct Edge {
    int32_t from, token, to, sibling;
  };

  void append(int32_t token);
  int32_t split(int32_t parent, int32_t token, int32_t state);
  Edge* find(int32_t state, int32_t token);
  void connect(int32_t from, int32_t token, int32_t to);
  void rehash();

  std::vector<int32_t> text_;
  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::vector<int32_t> slots_;  // open addressing: edge number, or -1
  int32_t last_ = 0;
  Match match_;
};

/// The last outputs of finished requests, in a ring; the oldest are overwritten. Fixed memory: 20 bytes a
/// token.
class RecentOutputs {
 public:
  explicit RecentOutputs(int32_t capacity);  // tokens
  void add(const int32_t* tokens, int64_t count);
  /// The latest place that ends with the last kGram tokens of `text`, with its whole length up to kLongest.
  Match match(const std::vector<int32_t>& text) const;
  /// Up to `most` tokens from position `next` on.
  std::vector<int32_t> read(int64_t next, int32_t most) const;
  int64_t bytes() const;

 private:
  static constexpr int32_t kGram = 4, kLongest = 32;
  static constexpr int32_t kEnd = -1;  // after every output: no guess runs into the next one
  bool holds(int64_t position) const {
    return position >= 0 && position >= written_ - capacity_ && position < written_;
  }
  int32_t at(int64_t position) const { return ring_[position % capacity_]; }
  template <typename TokenBefore>
  size_t slot(const TokenBefore& before) const;
  void push(int32_t token);

  const int64_t capacity_;
  int64_t written_ = 0;
  std::vector<int32_t> ring_;
  std::vector<int64_t> slots_;  // gram -> position after its last occurrence; 0: none
};

/// How often guesses were right, by the length of the match they came from; old ones fade.
class Chances {
 public:
  explicit Chances(double memory) : memory_(memory) {}  // weight of what is known with each new guess
  void add(int32_t length, bool right);
  /// `prior` counts like kPriorWeight guesses.
  double chance(int32_t length, double prior) const;
  /// What is taken for the chance before anything was seen.
  static double prior(int32_t length);

 private:
  static constexpr int32_t kLengths = 9;
  static int32_t bucket(int32_t length);
  double memory_;
  std::array<double, kLengths> right_{}, all_{};
};

/// Of one request. It learns how good its guesses are without their ever being run: each token that comes is
/// compared with the one it would have guessed. `everyone` (what is known of all requests) and `recent` may
/// be null, and outlive the drafter.
class Drafter {
 public:
  Drafter(Chances* everyone, const RecentOutputs* recent) : everyone_(everyone), recent_(recent) {}
  /// The prompt: says nothing of how the model goes on.
  void read(const int32_t* tokens, int64_t count);
  /// Tokens drawn. Returns how many of the next `most` guesses are expected to be right.
  double follow(const int32_t* tokens, int64_t count, int32_t most);
  /// Up to `most` tokens that may follow. chances[j]: that the first j + 1 are right; below kLeast no more
  /// come.
  std::vector<int32_t> draft(int32_t most, std::vector<double>& chances) const;
  int32_t match_length() const { return match_.length; }
  int64_t bytes() const { return own_.bytes(); }

 private:
  static constexpr double kMemory = 0.9, kLeast = 0.05;
  void choose_source();
  double chance(int32_t length) const;

  SuffixAutomaton own_;
  Chances chances_{kMemory};
  Chances* everyone_;
  const RecentOutputs* recent_;
  Match match_;
  bool is_recent_ = false;  // match_ lies in recent_
  int32_t guess_ = -1;      // the next token
};

}  // namespace narrows
