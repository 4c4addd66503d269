// How many threads are worth starting: the affinity mask, the cgroup quota and the physical cores.
#include "effective_cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

namespace narrows {
namespace {

constexpr double kMaxQuota = 1e6;  // CPUs; more is nonsense, and must fit an int

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

double ratio(double quota, double period) {
  return quota > 0 && period > 0 ? std::min(quota / period, kMaxQuota) : 0.0;
}

double quota_v2(const std::string& folder) {
  std::istringstream text(read_text(folder + "/cpu.max"));
  double quota = 0, period = 0;
  return text >> quota >> period ? ratio(quota, period) : 0.0;  // "max 100000" does not parse: no quota
}

double quota_v1(const std::string& folder) {
  std::istringstream quota_text(read_text(folder + "/cpu.cfs_quota_us"));
  std::istringstream period_text(read_text(folder + "/cpu.cfs_period_us"));
  double quota = 0, period = 0;
  return quota_text >> quota && period_text >> period ? ratio(quota, period) : 0.0;
}

CpuQuota tighter(const CpuQuota& a, const CpuQuota& b) {
  return b.cpus > 0 && (a.cpus <= 0 || b.cpus < a.cpus) ? b : a;
}

/// The tightest quota of `group` and its parents. Inside a container the path may not exist below the mount;
/// the walk then ends at the mount itself, which is the container's own group.
CpuQuota tightest(const std::string& mount, std::string group, int version) {
  CpuQuota best;
  if (group == "/") group.clear();
  while (true) {
    const std::string folder = mount + group;
    best = tighter(best, {version == 2 ? quota_v2(folder) : quota_v1(folder), version, folder});
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

CpuQuota cpu_quota(const std::string& membership, const std::string& mount) {
  std::istringstream lines(membership);
  CpuQuota best;
  for (std::string line; std::getline(lines, line);) {  // id:controllers:/path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    CpuQuota here;
    if (controllers.empty()) {
      here = tightest(mount, group, 2);
    } else if (lists_cpu(controllers)) {
      here = tightest(mount + "/" + controllers, group, 1);
      if (here.cpus <= 0) here = tightest(mount + "/cpu", group, 1);
    }
    best = tighter(best, here);
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

CpuLimits cpu_limits(const std::string& root) {
  CpuLimits limits;
  limits.affinity = affinity();
  limits.physical = physical_cores(limits.affinity, root + "/sys/devices/system/cpu");
  limits.quota = cpu_quota(read_text(root + "/proc/self/cgroup"), root + "/sys/fs/cgroup");
  return limits;
}

int CpuLimits::threads() const {
  const int granted = static_cast<int>(std::ceil(quota.cpus));
  return std::max(1, granted > 0 ? std::min(physical, granted) : physical);
}

int effective_cpus() { return cpu_limits().threads(); }

}  // namespace narrows
