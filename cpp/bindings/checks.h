// What every binding needs: arrays seen through nanobind, and refusals that name the argument.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <string>

#include "narrows/kernels.h"
#include "narrows/pack.h"

namespace narrows::python {

namespace nb = nanobind;

using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using FloatsOut = nb::ndarray<nb::numpy, float>;

inline constexpr int64_t kMaxDimension = int64_t{1}
                                         << 27;  // n * k * 4 bytes then fit into 64 bits with room to spare

/// ValueError.
[[noreturn]] void refuse(const std::string& message);

/// value, if it lies in [low, high].
int32_t checked_int(int64_t value, int64_t low, int64_t high, const std::string& name);

Format parse_format(const std::string& name);
KvFormat parse_kv_format(const std::string& name);
ActivationKind parse_activation(const std::string& name);
/// "" selects the default. ValueError for an unknown name, RuntimeError for one this CPU lacks.
const Kernels& parse_isa(const std::string& name);

/// A matrix without data: its format and sizes, checked.
PackedMatrix packed_shape(const std::string& format, int64_t n, int64_t k, int64_t group, bool has_zero);
/// The same with data: 1-D uint8, contiguous, 64-byte aligned, exactly shape.bytes() long.
PackedMatrix packed_matrix(const Array& data, PackedMatrix shape, const std::string& name);

/// Row-major float32 with `dims` dimensions, contiguous.
const float* float_data(const Array& array, size_t dims, const std::string& name);
/// A 2-D array of float32, float16 or uint16 (bf16 bits), contiguous along its rows.
SourceRows source_rows(const Array& array, const std::string& name);

/// A new numpy array; the memory is not initialized.
FloatsOut make_floats(int64_t rows, int64_t columns);

void bind_weights(nb::module_& m);
void bind_weight_file(nb::module_& m);
void bind_byte_pairs(nb::module_& m);
void bind_model(nb::module_& m);
void bind_sampler(nb::module_& m);
void bind_drafter(nb::module_& m);
void bind_transformer(nb::module_& m);

}  // namespace narrows::python
