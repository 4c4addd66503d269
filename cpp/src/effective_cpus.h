// The parts of effective_cpus() that read files, with their roots as parameters so that a test can fake them.
#pragma once
#include <string>
#include <vector>

#include "narrows/thread_pool.h"

namespace narrows {

/// The quota that the cgroups above this process set. `membership` is the text of /proc/self/cgroup, `mount`
/// the cgroup mount point. The tightest quota of the group and its parents counts.
CpuQuota cpu_quota(const std::string& membership, const std::string& mount);

/// Distinct physical cores among `cpus`; each cpu without a topology entry counts as a core.
int physical_cores(const std::vector<int>& cpus, const std::string& cpu_root);

}  // namespace narrows
