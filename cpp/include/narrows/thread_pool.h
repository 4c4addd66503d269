// A persistent pool that runs one step at a time: the caller is thread 0, workers spin briefly, then yield,
// then park.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace narrows {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // >= 1; throws std::invalid_argument
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  /// Runs body(thread) on every thread and returns when all are done. One caller at a time. The first
  /// exception thrown by any thread is rethrown here; the body must reach the same barriers on every thread
  /// or throw on all.
  void run(const std::function<void(int)>& body);
  /// Inside run(): all threads wait for each other.
  void barrier();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Threads worth using: min(affinity mask, cgroup v1/v2 cpu quota (rounded up), physical cores); at least 1.
int effective_cpus();

}  // namespace narrows
