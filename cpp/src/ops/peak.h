// Declares the measured ceilings of the kernels (meaning: narrows/kernels.h).
#pragma once
#include "isa.h"
#include "narrows/kernels.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
double int8_peak(double seconds);
double fp32_peak(double seconds);
}  // namespace narrows::NARROWS_ISA_NAMESPACE
