// A vector of floats of the instruction set this unit is compiled for: width 1 (generic), 8 (avx2) or 16
// (avx512). The generic twin (vec_scalar.h) is the meaning of every function. Reductions use a fixed order,
// so a result depends on the values only. max_of and min_of return their second operand where either one is
// NaN. Lanes past `n` of a partial load are 0. No std templates in here or in src/ops: of a copy compiled
// with AVX-512 flags the linker could make the one copy of every CPU.
#pragma once
#include "ops/isa.h"

#if defined(NARROWS_ISA_AVX512VNNI)
#include "vec/vec_avx512.h"
#elif defined(NARROWS_ISA_AVX2)
#include "vec/vec_avx2.h"
#else
#include "vec/vec_scalar.h"
#endif

namespace narrows::NARROWS_ISA_NAMESPACE {
inline constexpr float kInfinity = __builtin_inff();
}  // namespace narrows::NARROWS_ISA_NAMESPACE

#include "vec/vec_math.h"
