// Chooses the instruction set once: the best this CPU and its operating system allow, or the one NARROWS_ISA
// names.
#include <cstdlib>
#include <string>

#include "narrows/kernels.h"
#include "ops/stream_ahead.h"

namespace narrows {

// Constant tables of function pointers (src/ops/table.cpp): no code of a foreign instruction set runs to make
// them.
namespace isa_generic {
extern const Kernels kTable;
}
#if defined(NARROWS_X86)
namespace isa_avx2 {
extern const Kernels kTable;
}
namespace isa_avx512vnni {
extern const Kernels kTable;
}
#endif

namespace {

constexpr Isa kBestFirst[] = {Isa::avx512vnni, Isa::avx2, Isa::generic};

#if defined(NARROWS_X86)
// __builtin_cpu_supports also asks XGETBV whether the operating system saves the wide registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

int64_t stream_ahead() {
#if defined(NARROWS_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_is("amd")) return 512;
#endif
  return 2048;
}

}  // namespace

// Here and not in src/ops: initializers there would be compiled with instructions this CPU may lack.
extern const int64_t kStreamAhead = stream_ahead();

const Kernels* kernels_for(Isa isa) {
#if defined(NARROWS_X86)
  __builtin_cpu_init();
  if (isa == Isa::avx512vnni) return has_avx512vnni() ? &isa_avx512vnni::kTable : nullptr;
  if (isa == Isa::avx2) return has_avx2() ? &isa_avx2::kTable : nullptr;
#endif
  return isa == Isa::generic ? &isa_generic::kTable : nullptr;
}

const Kernels* select_kernels() {
  const char* forced = std::getenv("NARROWS_ISA");
  const std::string wanted = forced == nullptr ? "" : forced;
  std::string available;
  for (Isa isa : kBestFirst) {
    const Kernels* kernels = kernels_for(isa);
    if (kernels == nullptr) continue;
    if (wanted.empty() || wanted == kernels->name) return kernels;
    available += std::string(available.empty() ? "" : ", ") + kernels->name;
  }
  throw UnsupportedIsa("NARROWS_ISA=" + wanted +
                       " is not an instruction set of this CPU; available: " + available);
}

}  // namespace narrows
