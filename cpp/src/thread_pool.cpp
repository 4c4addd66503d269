// The pool: one generation counter starts a run, one counter ends it, a sense-reversing barrier in between.
// Every wait spins, then sleeps, so that it stays quick alone and harmless on a crowded machine.
#include "narrows/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "cpu_places.h"
#include "signal_word.h"

namespace narrows {
namespace {

using Clock = std::chrono::steady_clock;

// A barrier inside a step is usually microseconds away, the next step tens of microseconds (the scheduler
// runs in between). Past that somebody else has the core of the thread that is waited for, and to wake up
// costs less than what is still to come.
constexpr std::chrono::nanoseconds kSpin{100000};
constexpr std::chrono::nanoseconds kMinSpin{500};
constexpr int kPollsPerClock = 32;  // reading the clock costs about as much as one pause

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns once `word` differs from `old`. After spinning in vain it asks `core_is_shared()`: if the threads
/// it waits for need this very core, the next wait spins for half as long and lets them on; if not, spinning
/// goes back to its full length.
template <typename F>
void wait_while_equal(SignalWord& word, uint32_t old, std::chrono::nanoseconds& spin, F&& core_is_shared,
                      Ahead* ahead = nullptr) {
  constexpr int kLinesPerPoll = 4;  // about as long as a few pauses when the memory is busy
  while (ahead != nullptr && ahead->fetch(kLinesPerPoll)) {
    if (word.load() != old) return;
  }
  for (int i = 0; i < kPollsPerClock; ++i) {
    if (word.load() != old) return;
    cpu_relax();
  }
  const Clock::time_point begin = Clock::now();
  while (Clock::now() - begin < spin) {
    for (int i = 0; i < kPollsPerClock; ++i) {
      if (word.load() != old) return;
      cpu_relax();
    }
  }
  spin = core_is_shared() ? std::max(kMinSpin, spin / 2) : kSpin;
  word.sleep(old);
}

thread_local std::chrono::nanoseconds barrier_spin = kSpin;
thread_local int pool_thread = 0;  // which thread of its pool this is, inside run()

/// Thrown out of a barrier that can no longer complete, because another thread has thrown.
struct BarrierBroken {};

}  // namespace

struct ThreadPool::State {
  explicit State(int num_threads) : size(num_threads), places(num_threads) {}

  void work(int thread);
  void execute(int thread);
  void fail(std::exception_ptr thrown);
  void stop_and_join();
  void wait(SignalWord& word, uint32_t old, Ahead* ahead = nullptr) {
    wait_while_equal(word, old, barrier_spin, [this] { return places.spread(pool_thread); }, ahead);
  }

  const int size;
  CpuPlaces places;
  std::vector<std::thread> workers;
  std::mutex one_caller;
  const std::function<void(int)>* body = nullptr;
  bool stopping = false;  // published by `generation`
  std::mutex error_mutex;
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  SignalWord generation;
  SignalWord finished;  // counts up through all runs: workers done
  SignalWord phase;
  alignas(64) std::atomic<int> arrived{0};
};

void ThreadPool::State::fail(std::exception_ptr thrown) {
  {
    const std::lock_guard lock(error_mutex);
    if (!error) error = std::move(thrown);
  }
  failed.store(true, std::memory_order_relaxed);
  phase.raise();  // publishes `failed`: see barrier()
}

void ThreadPool::State::execute(int thread) {
  pool_thread = thread;
  if (size > 1) places.spread(thread);
  try {
    (*body)(thread);
  } catch (const BarrierBroken&) {
    // The reason is already recorded by the thread that broke it.
  } catch (...) {
    fail(std::current_exception());
  }
}

void ThreadPool::State::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    auto spin = kSpin;  // not adapted: a long gap between steps says nothing about the cores
    wait_while_equal(generation, seen, spin, [] { return false; });
    ++seen;
    if (stopping) return;
    execute(thread);
    finished.raise();
  }
}

void ThreadPool::State::stop_and_join() {
  stopping = true;
  generation.raise();
  for (std::thread& worker : workers) worker.join();
}

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads < 1) throw std::invalid_argument("num_threads must be at least 1");
  state_ = std::make_unique<State>(num_threads);
  state_->workers.reserve(num_threads - 1);
  try {
    for (int i = 1; i < num_threads; ++i) state_->workers.emplace_back([s = state_.get(), i] { s->work(i); });
  } catch (...) {
    state_->stop_and_join();
    throw;
  }
}

ThreadPool::~ThreadPool() { state_->stop_and_join(); }

int ThreadPool::size() const { return state_->size; }

void ThreadPool::run(const std::function<void(int)>& body) {
  State& s = *state_;
  const std::lock_guard lock(s.one_caller);
  s.body = &body;
  s.error = nullptr;
  s.failed.store(false, std::memory_order_relaxed);
  s.arrived.store(0, std::memory_order_relaxed);
  const uint32_t workers = static_cast<uint32_t>(s.size - 1);
  const uint32_t target = s.finished.load(std::memory_order_relaxed) + workers;
  if (workers > 0) {
    s.generation.raise();
  }
  s.execute(0);
  for (uint32_t done = s.finished.load(); done != target; done = s.finished.load()) {
    s.wait(s.finished, done);
  }
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

void ThreadPool::barrier(Ahead* ahead) {
  State& s = *state_;
  if (s.size == 1) return;
  // `phase` before `failed`: whoever sees the phase that a failure has set also sees the failure, and whoever
  // saw an older one is woken by the change.
  const uint32_t phase = s.phase.load();
  if (s.failed.load(std::memory_order_relaxed)) throw BarrierBroken{};
  if (s.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == s.size) {
    s.arrived.store(0, std::memory_order_relaxed);
    s.phase.raise();
  } else {
    s.wait(s.phase, phase, ahead);
  }
  if (s.failed.load(std::memory_order_relaxed)) throw BarrierBroken{};
}

}  // namespace narrows
