// Entry of the linear operator: sends a matrix to the kernels of its kind. Knows formats, no instructions.
#include "linear_ops.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

void linear(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a, float* out,
            int64_t ld_out, uint8_t* scratch) {
  if (a.rows <= 0 || panel_begin >= panel_end) return;
  if (w.quantized()) {
    linear_int(w, panel_begin, panel_end, a, out, ld_out, scratch);
  } else {
    linear_float(w, panel_begin, panel_end, a, out, ld_out);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
