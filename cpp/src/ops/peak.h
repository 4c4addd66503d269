// Declares the measured ceiling of the integer kernels (meaning: narrows/kernels.h).
#pragma once
#include "isa.h"
#include "narrows/kernels.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
double int8_peak(double seconds);
}
