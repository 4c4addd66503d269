// Every unit of every stage goes to exactly one thread, whoever is slow.
#include "stage_queues.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"
#include "narrows/thread_pool.h"

using namespace narrows;

TEST(every_unit_is_taken_once) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    StageQueues queues(threads);
    const std::vector<int32_t> units = {0, 1, 2, 7, 64, 65, 1000, 3};
    std::vector<std::vector<std::atomic<int>>> taken;
    for (const int32_t n : units) taken.emplace_back(static_cast<size_t>(n));
    for (int round = 1; round <= 30; ++round) {
      queues.reset();
      pool.run([&](int thread) {
        for (size_t stage = 0; stage < units.size(); ++stage) {
          queues.enter(stage, thread);
          const Take how = (stage + static_cast<size_t>(round)) % 2 == 0 ? Take::half : Take::single;
          for (UnitRange u = queues.take(stage, thread, units[stage], how); !u.empty();
               u = queues.take(stage, thread, units[stage], how)) {
            for (int32_t i = u.begin; i < u.end; ++i) ++taken[stage][static_cast<size_t>(i)];
          }
          pool.barrier();
        }
      });
      for (const auto& stage : taken) {
        for (const std::atomic<int>& count : stage) CHECK(count.load() == round);
      }
    }
  }
}

TEST(a_thread_walks_its_own_range_upwards_and_takes_the_others_from_the_far_end) {
  StageQueues queues(2);
  const auto take = [&](int thread, Take how) { return queues.take(0, thread, 16, how); };
  const auto is = [](UnitRange u, int32_t begin, int32_t end) { return u.begin == begin && u.end == end; };
  CHECK(queues.first_unit(1, 16) == 8);
  CHECK(is(take(1, Take::half), 8, 12));
  CHECK(is(take(1, Take::half), 12, 14));
  CHECK(is(take(1, Take::single), 14, 15));
  CHECK(is(take(1, Take::half), 15, 16));
  CHECK(is(take(1, Take::half), 7, 8));  // stolen: one at a time, from the end of thread 0's range
  CHECK(is(take(0, Take::half), 0, 4));
  CHECK(is(take(1, Take::half), 6, 7));
  CHECK(is(take(0, Take::half), 4, 5));
  CHECK(is(take(1, Take::half), 5, 6));
  CHECK(take(0, Take::half).empty() && take(1, Take::half).empty());
}

TEST(a_thread_that_sleeps_leaves_its_units_to_the_others) {
  ThreadPool pool(2);
  StageQueues queues(2);
  std::vector<int> by(100, -1);
  std::atomic<bool> done{false};
  pool.run([&](int thread) {
    queues.enter(0, thread);
    while (thread == 1 && !done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (UnitRange u = queues.take(0, thread, 100, Take::half); !u.empty();
         u = queues.take(0, thread, 100, Take::half)) {
      std::fill(by.begin() + u.begin, by.begin() + u.end, thread);
    }
    done = true;
  });
  CHECK(std::count(by.begin(), by.end(), 0) == 100);
}

TEST(what_is_fetched_during_a_barrier_ends_where_it_was_told_to) {
  ThreadPool pool(2);
  const std::vector<uint8_t> memory(192);
  pool.run([&](int) {
    for (const size_t bytes : {size_t{0}, size_t{64}, memory.size()}) {
      Ahead ahead{memory.data(), memory.data() + bytes};
      pool.barrier(&ahead);
      while (ahead.fetch(1)) {
      }
      CHECK(ahead.at == ahead.end);
    }
  });
}
