// The pool: every thread runs, barriers order memory, exceptions come out, crowding does not collapse it; and
// how many threads the machine is worth.
#include "narrows/thread_pool.h"

#include <sched.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "check.h"
#include "cpu_places.h"
#include "effective_cpus.h"

using namespace narrows;

namespace {

/// A folder that disappears with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    char name[] = "/tmp/narrows-test-XXXXXX";
    const char* made = mkdtemp(name);
    if (made == nullptr) throw std::runtime_error("cannot make a temporary folder");
    path_ = made;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  void write(const std::string& file, const std::string& text) const {
    const std::filesystem::path full = path_ + "/" + file;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

TEST(every_thread_runs_once_per_run) {
  for (int size : {1, 2, 3, 5}) {
    ThreadPool pool(size);
    std::vector<int> runs(size, 0);
    for (int i = 0; i < 200; ++i) pool.run([&](int thread) { ++runs[thread]; });
    for (int thread = 0; thread < size; ++thread) CHECK(runs[thread] == 200);
  }
}

TEST(a_barrier_makes_all_writes_visible) {
  constexpr int kSize = 3, kRounds = 300;
  ThreadPool pool(kSize);
  std::vector<int> value(kSize, 0);
  int wrong = 0;
  pool.run([&](int thread) {
    for (int round = 1; round <= kRounds; ++round) {
      value[thread] = round;
      pool.barrier();
      if (thread == 0) {
        for (int other : value) wrong += other != round;
      }
      pool.barrier();
    }
  });
  CHECK(wrong == 0);
}

TEST(parked_workers_wake_up) {
  ThreadPool pool(2);
  int runs = 0;
  for (int i = 0; i < 5; ++i) {
    pool.run([&](int thread) {
      if (thread == 1) ++runs;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // longer than any spin or yield
  }
  CHECK(runs == 5);
}

TEST(an_exception_of_any_thread_comes_out_and_the_pool_lives_on) {
  constexpr int kSize = 3;
  ThreadPool pool(kSize);
  for (int thrower = 0; thrower < kSize; ++thrower) {
    bool caught = false;
    try {
      pool.run([&](int thread) {
        pool.barrier();
        if (thread == thrower) throw std::runtime_error("thread " + std::to_string(thread));
        pool.barrier();  // never completes: the others must be let out
        pool.barrier();
      });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()) == "thread " + std::to_string(thrower);
    }
    CHECK(caught);
    int sum = 0;
    pool.run([&](int thread) {
      pool.barrier();
      if (thread == 0) sum = 1;
    });
    CHECK(sum == 1);
  }
}

TEST(callers_on_two_threads_take_turns) {
  ThreadPool pool(2);
  int inside = 0, overlaps = 0;
  const auto call = [&] {
    for (int i = 0; i < 200; ++i) {
      pool.run([&](int thread) {
        if (thread != 0) return;
        overlaps += inside++ != 0;
        --inside;
      });
    }
  };
  std::thread other(call);
  call();
  other.join();
  CHECK(overlaps == 0);
}

TEST(more_threads_than_cores_still_finish) {
  const int size = 4 * static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool(size);
  const auto begin = std::chrono::steady_clock::now();
  pool.run([&](int) {
    for (int i = 0; i < 200; ++i) pool.barrier();
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  CHECK(took.count() < 30.0);  // pure spinning would need minutes
}

TEST(a_thread_that_shares_its_core_moves_away_and_stays_unpinned) {
  cpu_set_t before, after;
  CHECK(sched_getaffinity(0, sizeof(before), &before) == 0);
  CpuPlaces places(2);
  CHECK(!places.spread(0));
  const bool shares = places.spread(1);  // the same thread in both roles: on the core of thread 0
  if (CPU_COUNT(&before) > 1) {
    CHECK(!shares);
    CHECK(places.cpu(0) != places.cpu(1));
  } else {
    CHECK(shares);
  }
  CHECK(sched_getaffinity(0, sizeof(after), &after) == 0);
  CHECK(CPU_EQUAL(&before, &after));
}

TEST(a_pool_needs_a_thread) {
  bool refused = false;
  try {
    ThreadPool pool(0);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  CHECK(refused);
}

TEST(the_tightest_cgroup_v2_quota_counts) {
  const TemporaryFolder folder;
  const std::string membership = "0::/a/b\n";
  CHECK(cpu_quota(membership, folder.path()).version == 0);
  folder.write("a/b/cpu.max", "max 100000\n");
  CHECK(cpu_quota(membership, folder.path()).version == 0);
  folder.write("a/cpu.max", "250000 100000\n");
  CHECK(cpu_quota(membership, folder.path()).cpus == 2.5);
  CHECK(cpu_quota(membership, folder.path()).version == 2);
  CHECK(cpu_quota(membership, folder.path()).folder == folder.path() + "/a");
  folder.write("a/b/cpu.max", "100000 100000\n");
  CHECK(cpu_quota(membership, folder.path()).cpus == 1.0);
  folder.write("cpu.max", "1000 100000\n");  // the mount itself: all a container sees
  CHECK(cpu_quota("0::/\n", folder.path()).cpus == 0.01);
  CHECK(cpu_quota("0::/\n", folder.path()).folder == folder.path());
}

TEST(a_cgroup_v1_quota_counts) {
  const TemporaryFolder folder;
  const std::string membership = "5:memory:/x\n4:cpu,cpuacct:/job\n0::/\n";
  folder.write("cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  folder.write("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  CHECK(cpu_quota(membership, folder.path()).version == 0);
  folder.write("cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n");
  CHECK(cpu_quota(membership, folder.path()).cpus == 1.5);
  CHECK(cpu_quota(membership, folder.path()).version == 1);
  CHECK(cpu_quota(membership, folder.path()).folder == folder.path() + "/cpu,cpuacct/job");
}

TEST(a_quota_counts_rounded_up_and_never_above_the_cores) {
  CpuLimits limits;
  limits.physical = 4;
  CHECK(limits.threads() == 4);
  for (const auto& [cpus, threads] : {std::pair{0.01, 1}, {1.0, 1}, {2.5, 3}, {64.0, 4}}) {
    limits.quota.cpus = cpus;
    CHECK(limits.threads() == threads);
  }
  limits.physical = 0;
  CHECK(limits.threads() == 1);
}

TEST(the_limits_of_a_process_are_read_below_a_root) {
  const TemporaryFolder folder;
  folder.write("proc/self/cgroup", "0::/job\n");
  folder.write("sys/fs/cgroup/job/cpu.max", "150000 100000\n");
  const CpuLimits limits = cpu_limits(folder.path());
  CHECK(limits.quota.cpus == 1.5);
  CHECK(!limits.affinity.empty());
  CHECK(limits.physical == static_cast<int>(limits.affinity.size()));  // no topology there
  CHECK(limits.threads() == std::min(limits.physical, 2));
}

TEST(hyperthreads_of_a_core_count_once) {
  const TemporaryFolder folder;
  for (int cpu : {0, 1, 2, 3}) {
    folder.write("cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
                 cpu % 2 == 0 ? "0,2\n" : "1,3\n");
  }
  CHECK(physical_cores({0, 1, 2, 3}, folder.path()) == 2);
  CHECK(physical_cores({0, 2}, folder.path()) == 1);
  CHECK(physical_cores({0, 1}, folder.path()) == 2);
  CHECK(physical_cores({7, 8}, folder.path()) == 2);  // no topology known
  CHECK(effective_cpus() >= 1);
}
