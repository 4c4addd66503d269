// How many threads are worth starting: the affinity mask, the cgroup quota and the physical cores.
#include "effective_cpus.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "narrows/thread_pool.h"

namespace narrows {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

int ceil_ratio(double quota, double period) {
  if (quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::min((quota + period - 1) / period, 1e6)));
}

int quota_v2(const std::string& folder) {
  std::istringstream text(read_text(folder + "/cpu.max"));
  double quota = 0, period = 0;
  return text >> quota >> period ? ceil_ratio(quota, period) : 0;  // "max 100000" does not parse: no quota
}

int quota_v1(const std::string& folder) {
  std::istringstream quota_text(read_text(folder + "/cpu.cfs_quota_us"));
  std::istringstream period_text(read_text(folder + "/cpu.cfs_period_us"));
  double quota = 0, period = 0;
  return quota_text >> quota && period_text >> period ? ceil_ratio(quota, period) : 0;
}

/// The tightest quota of `group` and its parents. Inside a container the path may not exist below the mount;
/// the walk then ends at the mount itself, which is the container's own group.
int tightest(const std::string& mount, std::string group, int (*quota)(const std::string&)) {
  int best = 0;
  while (true) {
    const int here = quota(mount + group);
    if (here > 0) best = best > 0 ? std::min(best, here) : here;
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return best;
    group.resize(slash);
  }
}

bool lists_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

std::vector<int> affinity() {
  std::vector<int> cpus;
  for (int limit = 1024; limit <= (1 << 20); limit *= 4) {
    cpu_set_t* set = CPU_ALLOC(limit);
    if (set == nullptr) return cpus;
    const size_t bytes = CPU_ALLOC_SIZE(limit);
    CPU_ZERO_S(bytes, set);
    const bool fits = sched_getaffinity(0, bytes, set) == 0;  // fails where the kernel's mask is larger
    for (int cpu = 0; fits && cpu < limit; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (fits) return cpus;
  }
  return cpus;
}

}  // namespace

int quota_cpus(const std::string& membership, const std::string& mount) {
  std::istringstream lines(membership);
  int best = 0;
  for (std::string line; std::getline(lines, line);) {  // id:controllers:/path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    int here = 0;
    if (controllers.empty()) {
      here = tightest(mount, group, quota_v2);
    } else if (lists_cpu(controllers)) {
      here = tightest(mount + "/" + controllers, group, quota_v1);
      if (here == 0) here = tightest(mount + "/cpu", group, quota_v1);
    }
    if (here > 0) best = best > 0 ? std::min(best, here) : here;
  }
  return best;
}

int physical_cores(const std::vector<int>& cpus, const std::string& cpu_root) {
  std::set<std::string> cores;
  for (int cpu : cpus) {
    const std::string name = "cpu" + std::to_string(cpu);
    const std::string siblings = read_text(cpu_root + "/" + name + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? name : siblings);
  }
  return static_cast<int>(cores.size());
}

int effective_cpus() {
  const int cores = physical_cores(affinity(), "/sys/devices/system/cpu");
  const int quota = quota_cpus(read_text("/proc/self/cgroup"), "/sys/fs/cgroup");
  return std::max(1, quota > 0 ? std::min(cores, quota) : cores);
}

}  // namespace narrows
