// How the threads of a step share the units of a stage. Every thread owns an equal, contiguous range of units
// and walks it upwards, so that its weights are one stream; who is done takes single units from the far end
// of the others' ranges.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace narrows {

struct UnitRange {
  int32_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

/// How much a thread takes of its own range at a time. A locked instruction empties the load queue, so a
/// stage that waits for memory takes half of what is left each time; one that computes takes single units.
enum class Take : uint8_t { single, half };

class StageQueues {
 public:
  explicit StageQueues(int threads) : threads_(threads), queues_(static_cast<size_t>(kSets) * threads) {}

  /// Before a step, while no thread is in one.
  void reset() {
    for (Queue& queue : queues_) queue.taken.store(0, std::memory_order_relaxed);
  }

  /// Every thread calls this at the start of its stage number `stage`; stages are at least one barrier apart.
  /// Clears the thread's queue of the stage after the next: nobody is there yet, and everybody has left the
  /// stage whose memory it reuses.
  void enter(size_t stage, int thread) { at(stage + 2, thread).taken.store(0, std::memory_order_relaxed); }

  /// The next of the `units` units of a stage for `thread`; empty when all are taken.
  UnitRange take(size_t stage, int thread, int32_t units, Take how) {
    for (int i = 0; i < threads_; ++i) {
      const int owner = thread + i < threads_ ? thread + i : thread + i - threads_;
      const int32_t begin = first_unit(owner, units), count = first_unit(owner + 1, units) - begin;
      const UnitRange got = take_from(at(stage, owner).taken, count, owner == thread, how);
      if (!got.empty()) return {begin + got.begin, begin + got.end};
    }
    return {};
  }

  /// Where the range of `owner` begins.
  int32_t first_unit(int owner, int32_t units) const {
    return static_cast<int32_t>(int64_t{units} * owner / threads_);
  }

 private:
  static constexpr int kSets = 4;  // the stage before, this one, the next, and the one being cleared
  static constexpr uint64_t kFront = 1, kBack = uint64_t{1} << 32;

  static UnitRange take_from(std::atomic<uint64_t>& taken, int32_t count, bool own, Take how) {
    uint64_t old = taken.load(std::memory_order_relaxed);
    while (true) {
      const int32_t front = static_cast<int32_t>(old & 0xffffffffu), back = static_cast<int32_t>(old >> 32);
      const int32_t left = count - front - back;
      if (left <= 0) return {};
      const int32_t n = own && how == Take::half ? (left + 1) / 2 : 1;
      const uint64_t now = old + (own ? static_cast<uint64_t>(n) * kFront : kBack);
      if (taken.compare_exchange_weak(old, now, std::memory_order_relaxed)) {
        return own ? UnitRange{front, front + n} : UnitRange{count - back - 1, count - back};
      }
    }
  }

  struct alignas(64) Queue {
    std::atomic<uint64_t> taken{0};  // low half: units taken from the front; high half: from the back
  };
  Queue& at(size_t stage, int thread) { return queues_[stage % kSets * threads_ + thread]; }

  int threads_;
  std::vector<Queue> queues_;
};

}  // namespace narrows
