// A counter that threads wait on: polled while the change is near, then slept on. Whoever changes it makes a
// system call only where somebody sleeps.
#pragma once
#include <atomic>
#include <climits>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace narrows {

/// On a cache line of its own: it is polled by all threads while others write its neighbours.
class alignas(64) SignalWord {
 public:
  uint32_t load(std::memory_order order = std::memory_order_acquire) const { return word_.load(order); }

  /// Adds 1, which publishes what was written before, and wakes all sleepers.
  void raise() {
    word_.fetch_add(1, std::memory_order_seq_cst);
    // Ordered against sleep(): either this sees the sleeper, or the sleeper sees the new value.
    if (sleepers_.load(std::memory_order_seq_cst) > 0) wake();
  }

  /// Sleeps until the word differs from `old`. A thread that sleeps hands its core on and is woken with its
  /// fair share still due. Yielding instead gives the rest of one's time to whoever else runs there: with two
  /// busy neighbours, steps of two threads took two hundred times as long.
  void sleep(uint32_t old) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (word_.load(std::memory_order_seq_cst) == old) wait(old);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
#if defined(__linux__)
  static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free);
  void wait(uint32_t old) { syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0); }
  void wake() { syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
  void wait(uint32_t old) { word_.wait(old); }
  void wake() { word_.notify_all(); }
#endif

  std::atomic<uint32_t> word_{0};
  std::atomic<uint32_t> sleepers_{0};
};

}  // namespace narrows
