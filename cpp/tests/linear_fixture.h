// Random packed matrices and activations for the tests of linear, quantize and pack. Buffers carry guard
// bytes behind their last element, so that a kernel that writes too far is caught.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "narrows/kernels.h"
#include "narrows/pack.h"

namespace fixture {

using namespace narrows;

/// `count` elements, 64-byte aligned, followed by 256 bytes that must keep their pattern.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count) : bytes_(count * static_cast<int64_t>(sizeof(T))) {
    data_ = static_cast<uint8_t*>(
        ::operator new(static_cast<size_t>(bytes_ + kGuardBytes), std::align_val_t{64}));
    std::memset(data_, kPattern, static_cast<size_t>(bytes_ + kGuardBytes));
  }
  ~Guarded() { ::operator delete(data_, std::align_val_t{64}); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return reinterpret_cast<T*>(data_); }
  const T* data() const { return reinterpret_cast<const T*>(data_); }
  T& operator[](int64_t i) { return data()[i]; }
  int64_t bytes() const { return bytes_; }
  bool intact() const {
    for (int64_t i = 0; i < kGuardBytes; ++i) {
      if (data_[bytes_ + i] != kPattern) return false;
    }
    return true;
  }
  static bool untouched(const void* p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) {
      if (static_cast<const uint8_t*>(p)[i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuardBytes = 256;
  static constexpr uint8_t kPattern = 0xa5;
  int64_t bytes_;
  uint8_t* data_;
};

struct Random {
  explicit Random(uint32_t seed) : engine(seed) {}
  float normal() { return gauss(engine); }
  int below(int n) { return static_cast<int>(engine() % static_cast<uint32_t>(n)); }
  std::mt19937 engine;
  std::normal_distribution<float> gauss{0.0f, 1.0f};
};

struct Spec {
  Format format = Format::F32;
  int32_t group = 0;
  bool has_zero = false;
};
inline std::vector<Spec> all_specs() {
  std::vector<Spec> specs = {{Format::F32}, {Format::F16}, {Format::BF16}};
  for (int32_t group : {32, 64, 128}) {
    specs.push_back({Format::P8, group, false});
    specs.push_back({Format::P44, group, false});
    specs.push_back({Format::P4, group, false});
    specs.push_back({Format::P4, group, true});
  }
  return specs;
}

inline PackedMatrix shape_of(const Spec& spec, int32_t n, int32_t k) {
  PackedMatrix shape;
  shape.format = spec.format;
  shape.n = n;
  shape.k = k;
  shape.group = spec.group;
  shape.has_zero = spec.has_zero;
  return shape;
}

/// A packed matrix; with `extreme` its codes and zero points are then replaced by arbitrary bytes, so that
/// the ends of their ranges occur (P8 code -128, P4 zero points 0 and 15).
struct Weights {
  Weights(const Spec& spec, int32_t n, int32_t k, bool extreme, Random& random, ThreadPool& pool)
      : values(static_cast<size_t>(n) * k), matrix(shape_of(spec, n, k)), bytes(matrix.bytes()) {
    for (float& v : values) v = random.normal();
    pack({{values.data(), DType::f32, n, k, k}}, false, matrix, bytes.data(), pool, *select_kernels());
    matrix.data = bytes.data();
    if (extreme && matrix.quantized()) scramble(random);
  }
  void scramble(Random& random) {
    const int64_t codes_at = matrix.scale_bytes() + matrix.zero_bytes();
    for (int32_t p = 0; p < matrix.panels(); ++p) {
      uint8_t* panel = bytes.data() + p * matrix.panel_bytes();
      for (int64_t i = matrix.scale_bytes(); i < codes_at; ++i)
        panel[i] = static_cast<uint8_t>(random.below(16));
      for (int64_t i = codes_at; i < matrix.panel_bytes(); ++i) {
        const int pick = random.below(4);
        panel[i] = static_cast<uint8_t>(pick == 0 ? 0 : pick == 1 ? 255 : random.below(256));
      }
    }
    for (int64_t i = matrix.panel_bytes() * matrix.panels(); i < matrix.bytes(); ++i)
      bytes[i] = static_cast<uint8_t>(random.below(256));
  }
  std::vector<float> values;
  PackedMatrix matrix;
  Guarded<uint8_t> bytes;
};

/// Activations of `rows` rows with everything a matrix needs; quantised by `kernels`.
struct Inputs {
  Inputs(const PackedMatrix& w, std::vector<float> values, int32_t rows, const Kernels& kernels)
      : x(std::move(values)), codes(rows * w.padded_k()), scale(rows * w.groups()), sum(rows * w.groups()) {
    a.rows = rows;
    a.k = w.k;
    a.group = w.group;
    a.f32 = x.data();
    a.ld = w.k;
    if (!w.quantized()) return;
    a.codes = codes.data();
    a.scale = scale.data();
    a.sum = sum.data();
    kernels.quantize(x.data(), w.k, 0, rows, a);
  }
  std::vector<float> x;
  Guarded<int8_t> codes;
  Guarded<float> scale;
  Guarded<int32_t> sum;
  Activations a;
};

inline std::vector<float> random_rows(int32_t rows, int32_t k, Random& random) {
  std::vector<float> x(static_cast<size_t>(rows) * k);
  for (float& v : x) v = random.normal() * (random.below(50) == 0 ? 30.0f : 1.0f);
  return x;
}

inline std::vector<const Kernels*> present() {
  std::vector<const Kernels*> all;
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
    if (kernels_for(isa) != nullptr) all.push_back(kernels_for(isa));
  }
  return all;
}

}  // namespace fixture
