#include "checks.h"

#include <memory>
#include <stdexcept>

namespace narrows::python {
namespace {

bool is_dtype(const Array& array, nb::dlpack::dtype_code code, int bits) {
  return array.dtype().code == static_cast<uint8_t>(code) && array.dtype().bits == bits &&
         array.dtype().lanes == 1;
}

bool is_contiguous(const Array& array) {
  int64_t expected = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

}  // namespace

void refuse(const std::string& message) { throw std::invalid_argument(message); }

int32_t checked_int(int64_t value, int64_t low, int64_t high, const std::string& name) {
  if (value < low || value > high) {
    refuse(name + " is " + std::to_string(value) + " but must be from " + std::to_string(low) + " to " +
           std::to_string(high));
  }
  return static_cast<int32_t>(value);
}

Format parse_format(const std::string& name) {
  if (name == "f32") return Format::F32;
  if (name == "f16") return Format::F16;
  if (name == "bf16") return Format::BF16;
  if (name == "p8") return Format::P8;
  if (name == "p44") return Format::P44;
  if (name == "p4") return Format::P4;
  refuse("format is '" + name + "' but must be one of f32, f16, bf16, p8, p44, p4");
}

KvFormat parse_kv_format(const std::string& name) {
  if (name == "f16") return KvFormat::f16;
  if (name == "f32") return KvFormat::f32;
  if (name == "int8") return KvFormat::i8;
  refuse("kv is '" + name + "' but must be one of f16, f32, int8");
}

ActivationKind parse_activation(const std::string& name) {
  if (name == "silu") return ActivationKind::silu;
  if (name == "gelu_tanh") return ActivationKind::gelu_tanh;
  if (name == "gelu_erf") return ActivationKind::gelu_erf;
  if (name == "relu") return ActivationKind::relu;
  if (name == "relu2") return ActivationKind::relu2;
  refuse("activation is '" + name + "' but must be one of silu, gelu_tanh, gelu_erf, relu, relu2");
}

const Kernels& parse_isa(const std::string& name) {
  if (name.empty()) return *select_kernels();
  Isa isa = Isa::generic;
  if (name == "avx2") {
    isa = Isa::avx2;
  } else if (name == "avx512vnni") {
    isa = Isa::avx512vnni;
  } else if (name != "generic") {
    refuse("isa is '" + name + "' but must be one of generic, avx2, avx512vnni");
  }
  const Kernels* kernels = kernels_for(isa);
  if (kernels == nullptr) throw UnsupportedIsa("isa '" + name + "' is not an instruction set of this CPU");
  return *kernels;
}

PackedMatrix packed_shape(const std::string& format, int64_t n, int64_t k, int64_t group, bool has_zero) {
  PackedMatrix shape;
  shape.format = parse_format(format);
  shape.n = checked_int(n, 1, kMaxDimension, "n");
  shape.k = checked_int(k, 1, kMaxDimension, "k");
  const bool group_fits = shape.quantized() ? group == 32 || group == 64 || group == 128 : group == 0;
  if (!group_fits) {
    refuse("group is " + std::to_string(group) + " but must be " +
           (shape.quantized() ? "32, 64 or 128" : "0") + " for format " + format);
  }
  if (has_zero && shape.format != Format::P4) refuse("has_zero is only for format p4");
  shape.group = static_cast<int32_t>(group);
  shape.has_zero = has_zero;
  return shape;
}

PackedMatrix packed_matrix(const Array& data, PackedMatrix shape, const std::string& name) {
  if (!is_dtype(data, nb::dlpack::dtype_code::UInt, 8))
    throw nb::type_error((name + " must be uint8").c_str());
  if (data.ndim() != 1 || !is_contiguous(data)) refuse(name + " must be 1-D and contiguous");
  if (static_cast<int64_t>(data.size()) != shape.bytes()) {
    refuse(name + " has " + std::to_string(data.size()) + " bytes but its format and sizes need " +
           std::to_string(shape.bytes()));
  }
  shape.data = static_cast<const uint8_t*>(data.data());
  if (reinterpret_cast<uintptr_t>(shape.data) % 64 != 0) refuse(name + " must be aligned to 64 bytes");
  return shape;
}

const float* float_data(const Array& array, size_t dims, const std::string& name) {
  if (!is_dtype(array, nb::dlpack::dtype_code::Float, 32)) {
    throw nb::type_error((name + " must be float32").c_str());
  }
  if (array.ndim() != dims || !is_contiguous(array)) {
    refuse(name + " must be " + std::to_string(dims) + "-D and contiguous");
  }
  return static_cast<const float*>(array.data());
}

SourceRows source_rows(const Array& array, const std::string& name) {
  SourceRows rows;
  if (is_dtype(array, nb::dlpack::dtype_code::Float, 32)) {
    rows.dtype = DType::f32;
  } else if (is_dtype(array, nb::dlpack::dtype_code::Float, 16)) {
    rows.dtype = DType::f16;
  } else if (is_dtype(array, nb::dlpack::dtype_code::UInt, 16)) {
    rows.dtype = DType::bf16;
  } else {
    throw nb::type_error((name + " must be float32, float16 or uint16 (bf16 bits)").c_str());
  }
  if (array.ndim() != 2) refuse(name + " must be 2-D");
  rows.n = checked_int(array.shape(0), 1, kMaxDimension, name + ".shape[0]");
  rows.k = checked_int(array.shape(1), 1, kMaxDimension, name + ".shape[1]");
  rows.ld = rows.n == 1 ? rows.k : array.stride(0);
  if ((rows.k > 1 && array.stride(1) != 1) || rows.ld < rows.k) refuse(name + " must be row-major");
  rows.data = array.data();
  return rows;
}

FloatsOut make_floats(int64_t rows, int64_t columns) {
  std::unique_ptr<float[]> memory(new float[static_cast<size_t>(rows) * static_cast<size_t>(columns)]);
  float* data = memory.get();
  nb::capsule owner(memory.release(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return FloatsOut(data, {static_cast<size_t>(rows), static_cast<size_t>(columns)}, owner);
}

}  // namespace narrows::python
