// Keeps the threads of a pool on cores of their own without pinning them. A woken worker often lands on its
// waker's core and, where another program keeps the remaining cores busy, may stay there for seconds: two
// threads on one core take turns, and the pool is no faster than one thread. A worker that sees this moves
// itself away once.
#pragma once
#include <atomic>
#include <chrono>
#include <vector>

namespace narrows {

class CpuPlaces {
 public:
  explicit CpuPlaces(int num_threads) : places_(num_threads) {}
  /// Called by `thread` itself, now and then. Thread 0, the caller's, says where it is and never moves.
  /// True where it still shares its core with another thread of the pool.
  bool spread(int thread);
  /// The core `thread` was last seen on, -1 at first.
  int cpu(int thread) const { return places_[thread].cpu.load(std::memory_order_relaxed); }

 private:
  struct alignas(64) Place {
    std::atomic<int> cpu{-1};
    std::chrono::steady_clock::time_point last_move;  // only its own thread reads and writes it
  };
  bool shared(int thread, int cpu) const;

  std::vector<Place> places_;
};

}  // namespace narrows
