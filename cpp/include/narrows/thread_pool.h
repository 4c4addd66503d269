// A persistent pool that runs one step at a time: the caller is thread 0, workers spin briefly, then
// sleep.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace narrows {

/// Memory that will be read soon: fetched into L2 by a thread that has nothing better to do.
struct Ahead {
  const uint8_t* at = nullptr;
  const uint8_t* end = nullptr;

  /// Asks for the next `lines` lines; false when there was nothing left to ask for.
  bool fetch(int lines) {
    if (at >= end) return false;
    for (int i = 0; i < lines && at < end; ++i, at += 64) __builtin_prefetch(at, 0, 2);
    return true;
  }
};

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
  /// Inside run(): all threads wait for each other; while they do, they fetch `ahead` where one is given.
  void barrier(Ahead* ahead = nullptr);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// CPU time a cgroup grants.
struct CpuQuota {
  double cpus = 0.0;   // CPU seconds a second; 0: no quota
  int version = 0;     // of cgroups: 1 or 2; 0: no quota
  std::string folder;  // of the group that sets it; its cpu.stat counts how often it stopped us
};

/// What limits the threads of this process.
struct CpuLimits {
  std::vector<int> affinity;  // CPUs it may run on
  int physical = 0;           // distinct cores among them, as the kernel tells
  CpuQuota quota;
  /// Threads worth using: min(cores, quota rounded up); at least 1.
  int threads() const;
};
/// `root` stands before /proc and /sys: for tests.
CpuLimits cpu_limits(const std::string& root = "");

/// cpu_limits().threads().
int effective_cpus();

}  // namespace narrows
