// What the tests of the float operators share: the tables of this CPU, lengths, guarded buffers and random
// numbers.
#pragma once
#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "narrows/kernels.h"

namespace ops_fixture {

using namespace narrows;

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kGuard = -777.25f;
inline constexpr double kUlp = 0x1p-24;  // half a unit in the last place, relative

inline const std::vector<const Kernels*>& all_kernels() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> k;
    for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
      if (kernels_for(isa) != nullptr) k.push_back(kernels_for(isa));
    }
    return k;
  }();
  return found;
}

// Every remainder of twice the widest vector, and lengths that fill the four-lane loops.
inline std::vector<int> lengths() {
  std::vector<int> n;
  for (int i = 1; i <= 33; ++i) n.push_back(i);
  for (const int i : {63, 64, 65, 100, 127, 128, 129, 576, 1000}) n.push_back(i);
  return n;
}

// n floats with 16 guards on either side.
class Guarded {
 public:
  explicit Guarded(int n) : data_(static_cast<size_t>(n) + 32, kGuard), n_(n) {}
  Guarded(const std::vector<float>& values) : Guarded(static_cast<int>(values.size())) {
    std::copy(values.begin(), values.end(), get());
  }
  float* get() { return data_.data() + 16; }
  float operator[](int i) const { return data_[static_cast<size_t>(i) + 16]; }
  bool intact() const {
    for (int i = 0; i < 16; ++i) {
      if (data_[static_cast<size_t>(i)] != kGuard || data_[static_cast<size_t>(n_ + 16 + i)] != kGuard)
        return false;
    }
    return true;
  }

 private:
  std::vector<float> data_;
  int n_;
};

inline std::vector<float> random_floats(int n, uint32_t seed, float scale = 1.0f, float shift = 0.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = scale * normal(random) + shift;
  return x;
}

}  // namespace ops_fixture
