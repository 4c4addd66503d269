#include "cpu_places.h"

#include <sched.h>

namespace narrows {
namespace {

// Rare enough not to fight a scheduler that has its reasons, often enough to be noticed within a token.
constexpr std::chrono::milliseconds kBetweenMoves{5};

}  // namespace

bool CpuPlaces::shared(int thread, int cpu) const {
  for (int other = 0; other < static_cast<int>(places_.size()); ++other) {
    if (other != thread && this->cpu(other) == cpu) return true;
  }
  return false;
}

bool CpuPlaces::spread(int thread) {
  Place& mine = places_[thread];
  const int here = sched_getcpu();
  if (here != mine.cpu.load(std::memory_order_relaxed)) mine.cpu.store(here, std::memory_order_relaxed);
  if (here < 0 || !shared(thread, here)) return false;
  if (thread == 0) return true;
  const auto now = std::chrono::steady_clock::now();
  if (now - mine.last_move < kBetweenMoves) return true;
  mine.last_move = now;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
    return true;  // more CPUs than the fixed mask: leave it
  cpu_set_t unused = allowed;
  for (const Place& place : places_) {
    const int cpu = place.cpu.load(std::memory_order_relaxed);
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(cpu, &unused);
  }
  if (CPU_COUNT(&unused) == 0) return true;  // more threads than cores
  if (sched_setaffinity(0, sizeof(unused), &unused) != 0) return true;
  sched_setaffinity(0, sizeof(allowed), &allowed);  // moved; from here on the scheduler is free again
  mine.cpu.store(sched_getcpu(), std::memory_order_relaxed);
  return false;
}

}  // namespace narrows
