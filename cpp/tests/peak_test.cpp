// The peaks: every instruction set of this CPU has both.
#include "check.h"
#include "ops_fixture.h"

namespace {

using namespace ops_fixture;

constexpr double kSeconds = 2e-3;

}  // namespace

TEST(every_instruction_set_has_an_integer_and_a_float_peak) {
  for (const Kernels* k : all_kernels()) {
    for (double (*peak)(double) : {k->int8_peak, k->fp32_peak}) {
      const double macs_per_s = peak(kSeconds);
      CHECK(macs_per_s > 1e6 && macs_per_s < 1e14);  // a thread, whoever else takes its core
    }
  }
}

TEST(a_peak_of_no_time_is_still_measured) {
  for (const Kernels* k : all_kernels()) {
    CHECK(k->int8_peak(1e-9) > 0.0);
    CHECK(k->fp32_peak(1e-9) > 0.0);
  }
}
