// The dispatch table of this instruction set.
#include "float_ops.h"
#include "isa.h"
#include "linear_ops.h"
#include "narrows/kernels.h"
#include "peak.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

#if defined(NARROWS_ISA_AVX512VNNI)
constexpr Isa kIsa = Isa::avx512vnni;
constexpr const char* kName = "avx512vnni";
#elif defined(NARROWS_ISA_AVX2)
constexpr Isa kIsa = Isa::avx2;
constexpr const char* kName = "avx2";
#else
constexpr Isa kIsa = Isa::generic;
constexpr const char* kName = "generic";
#endif

extern const Kernels kTable;
const Kernels kTable = {
    .isa = kIsa,
    .name = kName,
    .linear = linear,
    .linear_upper = linear_upper,
    .quantize = quantize,
    .unpack_row = unpack_row,
    .code_p4 = code_p4,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .activate = activate,
    .activate_gated = activate_gated,
    .add = add,
    .scale = scale,
    .softcap = softcap,
    .rope = rope,
    .store_kv = store_kv,
    .attention = attention,
    .log_sum_exp = log_sum_exp,
    .argmax = argmax,
    .panel_max = panel_max,
    .int8_peak = int8_peak,
    .fp32_peak = fp32_peak,
};

}  // namespace narrows::NARROWS_ISA_NAMESPACE
