// Counts the instructions that a piece of code executes on this thread, by single-stepping: with the trap
// flag set, the processor raises SIGTRAP after every instruction. Exact, the same on a busy and on an idle
// machine, and it needs no performance counters, which virtual machines seldom have; but an instruction takes
// microseconds.
#pragma once
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>

namespace narrows::bench {

#if defined(__x86_64__) && defined(__linux__)
class StepCounter {
 public:
  static constexpr bool kSupported = true;

  /// Takes over SIGTRAP of this process, for good. One counter at a time.
  StepCounter() {
    struct sigaction action{};
    action.sa_sigaction = &StepCounter::on_step;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGTRAP, &action, nullptr) != 0) std::abort();
    overhead_ = raw([] {});
  }

  /// Instructions of body(), which must neither start threads nor throw. A repeated string instruction counts
  /// once, however much it moves: how often it traps would depend on where its bytes lie.
  template <typename F>
  int64_t count(F&& body) {
    return raw(body) - overhead_;
  }

 private:
  static constexpr unsigned long long kTrapFlag = 0x100;

  template <typename F>
  static int64_t raw(F&& body) {
    steps = 0;
    last_at = 0;
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | kTrapFlag);
    body();
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~kTrapFlag);
    return steps;
  }

  static void on_step(int, siginfo_t*, void* context) {
    const int64_t at = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    if (at != last_at) steps = steps + 1;
    last_at = at;
  }

  static inline volatile int64_t steps = 0;
  static inline volatile int64_t last_at = 0;
  int64_t overhead_ = 0;
};

#else

class StepCounter {
 public:
  static constexpr bool kSupported = false;
  template <typename F>
  int64_t count(F&&) {
    std::abort();
  }
};

#endif

}  // namespace narrows::bench
