// pack: unpacking a packed matrix gives rounded values no worse than rounding to nearest, for every
// format, source type and arrangement; odd scales are safe; results know no thread count and no instruction
// set.
#include <limits>
#include <stdexcept>

#include "check.h"
#include "linear_fixture.h"
#include "ops/linear_half.h"

namespace {

using namespace fixture;

std::vector<float> unpacked(const PackedMatrix& w, int32_t row) {
  std::vector<float> out(static_cast<size_t>(w.k));
  kernels_for(Isa::generic)->unpack_row(w, row, out.data());
  return out;
}

/// Whether a channel has one scale.
bool whole_channels(const Spec& spec) { return spec.format == Format::P8 || spec.format == Format::P44; }

/// Largest distance rounding to nearest may leave between w[k] and its value, for values spanning [low, high]
/// (0 inside). Half a step, plus what rounding the scale to f16 (2^-11) and clamping at the end of the grid
/// add.
double step_bound(const Spec& spec, double low, double high) {
  const double top = std::max(-low, high);
  if (whole_channels(spec)) return top / 127.0 * 0.5 * (1 + 1e-5);
  const double step = spec.has_zero ? (high - low) / 15.0 : top / 7.0;
  return step * 0.5 + 16.0 * step * 0x1p-10 + (spec.has_zero ? step * 0.5 : 0.0);
}

void check_row(const Spec& spec, const PackedMatrix& w, int32_t row, const float* source) {
  const std::vector<float> got = unpacked(w, row);
  const int32_t group = whole_channels(spec) ? w.k : spec.group > 0 ? spec.group : 1;
  for (int32_t begin = 0; begin < w.k; begin += group) {
    const int32_t end = std::min(begin + group, w.k);
    float low = 0.0f, high = 0.0f;
    double squares = 0.0;
    for (int32_t k = begin; k < end; ++k) {
      low = std::min(low, source[k]);
      high = std::max(high, source[k]);
    }
    for (int32_t k = begin; k < end; ++k) {
      const float value = got[static_cast<size_t>(k)];
      if (spec.format == Format::F32) CHECK(value == source[k]);
      if (spec.format == Format::F16) CHECK(value == f16_to_float(float_to_f16(source[k])));
      if (spec.format == Format::BF16) CHECK(value == bf16_to_float(float_to_bf16(source[k])));
      if (whole_channels(spec)) CHECK_NEAR(value, source[k], step_bound(spec, low, high));
      squares += (double{value} - source[k]) * (double{value} - source[k]);
    }
    // Single values may be further off: P4 takes the grid of the least squared error, and that may cut the
    // extremes.
    const double bound = step_bound(spec, low, high);
    if (spec.format == Format::P4) CHECK(squares <= (end - begin) * bound * bound);
  }
}

PackResult pack_into(const PackedMatrix& shape, const std::vector<SourceRows>& sources, bool interleave,
                     Guarded<uint8_t>* bytes, int threads = 2) {
  ThreadPool pool(threads);
  const PackResult result = pack(sources, interleave, shape, bytes->data(), pool, *select_kernels());
  CHECK(bytes->intact());
  return result;
}

}  // namespace

TEST(unpacking_gives_back_the_rounded_values_for_every_format_and_size) {
  Random random(1);
  ThreadPool pool(2);
  for (const Spec& spec : all_specs()) {
    for (int32_t k = 1; k <= 150; k += k < 70 ? 1 : 13) {
      const Weights weights(spec, 1 + k % 40, k, false, random, pool);
      CHECK(weights.bytes.intact());
      for (int32_t row = 0; row < weights.matrix.n; ++row) {
        check_row(spec, weights.matrix, row, weights.values.data() + int64_t{row} * k);
      }
    }
  }
}

TEST(padding_channels_and_padding_k_weigh_nothing) {
  Random random(2);
  ThreadPool pool(1);
  for (const Spec& spec : all_specs()) {
    const Weights weights(spec, 19, 37, false, random, pool);
    PackedMatrix padded = weights.matrix;
    padded.n = 32;
    for (int32_t row = 19; row < 32; ++row) {
      for (float v : unpacked(padded, row)) CHECK(v == 0.0f);
    }
    if (spec.group == 0) continue;
    padded.k = static_cast<int32_t>(padded.padded_k());
    for (int32_t row = 0; row < 19; ++row) {
      const std::vector<float> all = unpacked(padded, row);
      for (size_t k = 37; k < all.size(); ++k) CHECK(all[k] == 0.0f);
    }
  }
}

TEST(f16_and_bf16_sources_pack_like_their_float_values) {
  Random random(3);
  const int32_t n = 21, k = 70, ld = 75;
  std::vector<uint16_t> f16(n * ld), bf16(n * ld);
  std::vector<float> as_f32[2] = {std::vector<float>(n * ld), std::vector<float>(n * ld)};
  for (size_t i = 0; i < f16.size(); ++i) {
    f16[i] = float_to_f16(random.normal() * (i % 7 == 0 ? 1e-6f : 1.0f));
    bf16[i] = float_to_bf16(random.normal());
    as_f32[0][i] = f16_to_float(f16[i]);
    as_f32[1][i] = bf16_to_float(bf16[i]);
  }
  for (const Spec& spec : all_specs()) {
    const PackedMatrix shape = shape_of(spec, n, k);
    const SourceRows halves[2] = {{f16.data(), DType::f16, n, k, ld}, {bf16.data(), DType::bf16, n, k, ld}};
    for (int i = 0; i < 2; ++i) {
      Guarded<uint8_t> a(shape.bytes()), b(shape.bytes());
      pack_into(shape, {halves[i]}, false, &a);
      pack_into(shape, {{as_f32[i].data(), DType::f32, n, k, ld}}, false, &b, 1);
      CHECK(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.bytes())) == 0);
    }
  }
}

TEST(f16_conversion_is_exact_and_rounds_to_even) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float x = f16_to_float(static_cast<uint16_t>(h));
    if ((h & 0x7c00) != 0x7c00 || (h & 0x3ff) == 0) CHECK(float_to_f16(x) == h);
    if ((h & 0x7fff) < 0x7bff) {  // halfway to the next value: to the even one
      const float next = f16_to_float(static_cast<uint16_t>(h + 1));
      CHECK(float_to_f16((x + next) / 2) == (h % 2 == 0 ? h : h + 1));
    }
  }
  CHECK(float_to_f16(65520.0f) == 0x7c00);
  CHECK(std::isnan(f16_to_float(float_to_f16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(stacked_sources_lie_one_below_the_other_and_interleaved_ones_panel_by_panel) {
  Random random(4);
  const int32_t k = 40, n = 21;
  std::vector<float> a(n * k), b(n * k);
  for (float& v : a) v = random.normal();
  for (float& v : b) v = random.normal();
  const SourceRows gate{a.data(), DType::f32, n, k, k}, up{b.data(), DType::f32, n, k, k};
  PackedMatrix stacked = shape_of({Format::F32}, 2 * n, k), woven = shape_of({Format::F32}, 64, k);
  Guarded<uint8_t> stacked_bytes(stacked.bytes()), woven_bytes(woven.bytes());
  pack_into(stacked, {gate, up}, false, &stacked_bytes);
  pack_into(woven, {gate, up}, true, &woven_bytes);
  stacked.data = stacked_bytes.data();
  woven.data = woven_bytes.data();
  for (int32_t row = 0; row < n; ++row) {
    const size_t bytes = static_cast<size_t>(k) * 4;
    const int32_t at = row / 16 * 32 + row % 16;
    CHECK(std::memcmp(unpacked(stacked, row).data(), a.data() + row * k, bytes) == 0);
    CHECK(std::memcmp(unpacked(stacked, n + row).data(), b.data() + row * k, bytes) == 0);
    CHECK(std::memcmp(unpacked(woven, at).data(), a.data() + row * k, bytes) == 0);
    CHECK(std::memcmp(unpacked(woven, at + 16).data(), b.data() + row * k, bytes) == 0);
  }
  for (float v : unpacked(woven, 32 + 5)) CHECK(v == 0.0f);
}

TEST(values_that_are_not_finite_are_counted_and_the_largest_finite_one_reported) {
  std::vector<float> w(3 * 64, 0.25f);
  w[5] = std::numeric_limits<float>::quiet_NaN();
  w[70] = -std::numeric_limits<float>::infinity();
  w[80] = -7.5f;
  for (const Spec& spec : all_specs()) {
    const PackedMatrix shape = shape_of(spec, 3, 64);
    Guarded<uint8_t> bytes(shape.bytes());
    const PackResult result = pack_into(shape, {{w.data(), DType::f32, 3, 64, 64}}, false, &bytes);
    CHECK(result.non_finite == 2);
    CHECK(result.max_abs == 7.5);
  }
  w.assign(w.size(), 1e6f);  // finite, but not in f16
  const PackedMatrix shape = shape_of({Format::F16}, 3, 64);
  Guarded<uint8_t> bytes(shape.bytes());
  CHECK(pack_into(shape, {{w.data(), DType::f32, 3, 64, 64}}, false, &bytes).non_finite == 3 * 64);
}

TEST(zero_denormal_and_huge_groups_pack_to_finite_values) {
  for (const Spec& spec : all_specs()) {
    if (spec.group == 0) continue;
    for (float size : {0.0f, 1e-44f, 1e-30f, 1e-8f, 1e5f, 3e38f}) {
      std::vector<float> w(128);
      for (size_t i = 0; i < w.size(); ++i) w[i] = i % 2 == 0 ? size : -size;
      PackedMatrix shape = shape_of(spec, 1, 128);
      Guarded<uint8_t> bytes(shape.bytes());
      CHECK(pack_into(shape, {{w.data(), DType::f32, 1, 128, 128}}, false, &bytes).non_finite == 0);
      shape.data = bytes.data();
      for (float v : unpacked(shape, 0))
        CHECK(std::isfinite(v) && std::fabs(v) <= std::fabs(size) * 1.3f + 1e-7f);
    }
  }
}

TEST(the_symmetric_p4_grid_uses_the_end_that_only_one_sign_has) {
  std::vector<float> w(32);
  for (int i = 0; i < 32; ++i)
    w[static_cast<size_t>(i)] = static_cast<float>(i % 16 - 8);  // -8..7: exact with scale 1
  PackedMatrix shape = shape_of({Format::P4, 32, false}, 2, 32);
  std::vector<float> both = w;
  for (float v : w) both.push_back(-v);
  Guarded<uint8_t> bytes(shape.bytes());
  pack_into(shape, {{both.data(), DType::f32, 2, 32, 32}}, false, &bytes);
  shape.data = bytes.data();
  CHECK(unpacked(shape, 0) == w);
  CHECK(unpacked(shape, 1) == std::vector<float>(both.begin() + 32, both.end()));
}

TEST(every_instruction_set_packs_the_same_bytes) {
  Random random(6);
  ThreadPool pool(1);
  const int32_t n = 37, k = 300;
  std::vector<float> w(n * k);
  for (size_t i = 0; i < w.size(); ++i) {
    const float sizes[] = {1.0f, 0.0f, 1e-7f, 1e-40f, 3e38f, 50.0f};
    w[i] = random.normal() * sizes[i / k % 6];  // a row of each size
    if (!std::isfinite(w[i])) w[i] = 3e38f;
  }
  for (const Spec& spec : all_specs()) {
    const PackedMatrix shape = shape_of(spec, n, k);
    Guarded<uint8_t> meaning(shape.bytes());
    const SourceRows rows{w.data(), DType::f32, n, k, k};
    pack({rows}, false, shape, meaning.data(), pool, *kernels_for(Isa::generic));
    for (Isa isa : {Isa::avx2, Isa::avx512vnni}) {
      if (kernels_for(isa) == nullptr) continue;
      Guarded<uint8_t> bytes(shape.bytes());
      pack({rows}, false, shape, bytes.data(), pool, *kernels_for(isa));
      CHECK(bytes.intact());
      CHECK(std::memcmp(meaning.data(), bytes.data(), static_cast<size_t>(shape.bytes())) == 0);
    }
  }
}

TEST(the_p4_grid_cuts_an_extreme_where_that_costs_less_than_a_wide_step) {
  std::vector<float> w(128);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 15) - 7.0f;  // exact with step 1
  w[64] = 8.5f;
  for (bool has_zero : {false, true}) {
    PackedMatrix shape = shape_of({Format::P4, 128, has_zero}, 1, 128);
    Guarded<uint8_t> bytes(shape.bytes());
    pack_into(shape, {{w.data(), DType::f32, 1, 128, 128}}, false, &bytes);
    shape.data = bytes.data();
    const std::vector<float> got = unpacked(shape, 0);
    CHECK(got[64] < 8.2f);
    CHECK_NEAR(got[0], w[0], 0.1);
  }
}

TEST(sources_that_do_not_fit_the_shape_are_refused) {
  std::vector<float> w(64 * 32);
  const SourceRows rows{w.data(), DType::f32, 32, 32, 32};
  Guarded<uint8_t> bytes(64 * 32 * 4);
  ThreadPool pool(1);
  const auto refused = [&](const std::vector<SourceRows>& sources, bool interleave,
                           const PackedMatrix& shape) {
    try {
      pack(sources, interleave, shape, bytes.data(), pool, *select_kernels());
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  CHECK(refused({rows}, false, shape_of({Format::F32}, 33, 32)));
  CHECK(refused({rows}, false, shape_of({Format::F32}, 32, 31)));
  CHECK(refused({rows}, true, shape_of({Format::F32}, 64, 32)));
  CHECK(refused({rows}, false, shape_of({Format::P4, 48, false}, 32, 32)));
  CHECK(!refused({rows, rows}, true, shape_of({Format::F32}, 64, 32)));
}

TEST(packing_and_checksum_do_not_depend_on_the_number_of_threads) {
  Random random(5);
  const int32_t n = 200, k = 3000;
  std::vector<float> w(static_cast<size_t>(n) * k);
  for (float& v : w) v = random.normal();
  const PackedMatrix shape = shape_of({Format::P8, 128, false}, n, k);
  Guarded<uint8_t> a(shape.bytes()), b(shape.bytes());
  const SourceRows rows{w.data(), DType::f32, n, k, k};
  pack_into(shape, {rows}, false, &a, 1);
  pack_into(shape, {rows}, false, &b, 3);
  CHECK(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.bytes())) == 0);
  ThreadPool one(1), three(3);
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.data());
  for (int64_t size : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{1} << 20, (int64_t{1} << 21) + 17}) {
    CHECK(checksum(bytes, size, one) == checksum(bytes, size, three));
  }
}
