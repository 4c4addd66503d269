// Packing, unpacking and the linear operator on its own, with the pool that runs them.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "checks.h"
#include "narrows/thread_pool.h"

namespace narrows::python {
namespace {

using namespace nb::literals;
using BytesOut = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;
constexpr int kMaxThreads = 1024;

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
template <typename T>
using Aligned = std::unique_ptr<T, AlignedDelete>;

template <typename T>
Aligned<T> make_aligned(int64_t count) {
  return Aligned<T>(
      static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T), std::align_val_t{64})));
}

std::pair<int64_t, double> pack_sources(const std::vector<Array>& sources, const BytesOut& dst,
                                        const std::string& format, int64_t group, bool has_zero,
                                        bool interleave, ThreadPool& pool) {
  if (sources.empty()) refuse("sources is empty");
  std::vector<SourceRows> rows;
  int64_t n = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    rows.push_back(source_rows(sources[i], "sources[" + std::to_string(i) + "]"));
    if (rows[i].k != rows[0].k) refuse("sources differ in their number of columns");
    n += rows[i].n;
  }
  if (interleave) {
    if (rows.size() != 2 || rows[0].n != rows[1].n) refuse("interleave takes two sources of the same shape");
    n = 2 * round_up(rows[0].n, kPanel);
  }
  PackedMatrix shape = packed_shape(format, n, rows[0].k, group, has_zero);
  shape = packed_matrix(Array(dst), shape, "dst");
  const Kernels& kernels = *select_kernels();
  const nb::gil_scoped_release release;
  const PackResult result = pack(rows, interleave, shape, dst.data(), pool, kernels);
  return {result.non_finite, result.max_abs};
}

FloatsOut unpack_all(const Array& data, const std::string& format, int64_t n, int64_t k, int64_t group,
                     bool has_zero) {
  const PackedMatrix w = packed_matrix(data, packed_shape(format, n, k, group, has_zero), "data");
  FloatsOut out = make_floats(n, k);
  const Kernels& kernels = *select_kernels();
  const nb::gil_scoped_release release;
  for (int32_t row = 0; row < w.n; ++row) kernels.unpack_row(w, row, out.data() + row * k);
  return out;
}

/// out[rows][ld_out] = x @ W.T, panels split over the pool.
void run_linear(const Kernels& kernels, const PackedMatrix& w, const float* x, int32_t rows, float* out,
                int64_t ld_out, ThreadPool& pool) {
  Activations a{.rows = rows, .k = w.k, .f32 = x, .ld = w.k};
  const auto codes = make_aligned<int8_t>(rows * w.padded_k());
  const auto scale = make_aligned<float>(rows * w.groups());
  const auto sum = make_aligned<int32_t>(rows * w.groups());
  const auto scratch = make_aligned<uint8_t>(kLinearScratchBytes * pool.size());
  if (w.quantized()) {
    a.group = w.group;
    a.codes = codes.get();
    a.scale = scale.get();
    a.sum = sum.get();
    kernels.quantize(x, w.k, 0, rows, a);
  }
  const int64_t panels = w.panels();
  pool.run([&](int thread) {
    const auto begin = static_cast<int32_t>(panels * thread / pool.size());
    const auto end = static_cast<int32_t>(panels * (thread + 1) / pool.size());
    if (begin == end) return;
    kernels.linear(w, begin, end, a, out + int64_t{begin} * kPanel, ld_out,
                   scratch.get() + kLinearScratchBytes * thread);
  });
}

FloatsOut linear_once(const Array& data, const Array& x, const std::string& format, int64_t n, int64_t group,
                      bool has_zero, const std::string& isa, ThreadPool* pool) {
  const float* rows_data = float_data(x, 2, "x");
  const int32_t rows = checked_int(x.shape(0), 0, kMaxDimension, "x.shape[0]");
  const PackedMatrix shape = packed_shape(format, n, x.shape(1), group, has_zero);
  const PackedMatrix w = packed_matrix(data, shape, "data");
  const Kernels& kernels = parse_isa(isa);
  FloatsOut out = make_floats(rows, n);
  if (rows == 0) return out;
  const nb::gil_scoped_release release;
  ThreadPool alone(1);
  const int64_t ld = int64_t{w.panels()} * kPanel;
  const auto padded = make_aligned<float>(rows * ld);  // kernels write whole panels
  run_linear(kernels, w, rows_data, rows, padded.get(), ld, pool != nullptr ? *pool : alone);
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(out.data() + row * n, padded.get() + row * ld, n * sizeof(float));
  }
  return out;
}

uint64_t checksum_bytes(const Array& data, ThreadPool& pool) {
  if (data.ndim() != 1 || data.dtype() != nb::dtype<uint8_t>() || (data.size() > 1 && data.stride(0) != 1)) {
    throw nb::type_error("data must be a contiguous 1-D array of uint8");
  }
  const nb::gil_scoped_release release;
  return checksum(static_cast<const uint8_t*>(data.data()), static_cast<int64_t>(data.size()), pool);
}

double measure_bandwidth(int64_t num_bytes, int repeats, ThreadPool& pool, int passes, int64_t segments) {
  if (num_bytes < 1) refuse("num_bytes must be positive");
  if (repeats < 1) refuse("repeats must be positive");
  if (passes < 1) refuse("passes must be positive");
  if (segments < 1) refuse("segments must be positive");
  const nb::gil_scoped_release release;
  return read_bandwidth(num_bytes, {repeats, passes, segments}, pool);
}

/// All threads at once, as in a step: cores that share a multiplier must share the ceiling too.
double measure_peak(double (*Kernels::*peak)(double), double seconds, ThreadPool& pool,
                    const std::string& isa) {
  if (!(seconds > 0 && seconds <= 60)) refuse("seconds must be in (0, 60]");
  const Kernels& kernels = parse_isa(isa);
  std::vector<double> rates(static_cast<size_t>(pool.size()));
  const nb::gil_scoped_release release;
  pool.run([&](int thread) { rates[static_cast<size_t>(thread)] = (kernels.*peak)(seconds); });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total / 1e9;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
    const Kernels* kernels = kernels_for(isa);
    if (kernels != nullptr) names.emplace_back(kernels->name);
  }
  return names;
}

}  // namespace

void bind_weights(nb::module_& m) {
  m.attr("LAYOUT_VERSION") = kLayoutVersion;
  m.def("isa", [] { return std::string(select_kernels()->name); });
  m.def("available_isas", &available_isas);
  m.def("effective_cpus", &effective_cpus);
  nb::class_<CpuLimits>(m, "CpuLimits")
      .def_ro("affinity", &CpuLimits::affinity)
      .def_ro("physical", &CpuLimits::physical)
      .def_prop_ro("quota_cpus", [](const CpuLimits& self) { return self.quota.cpus; })
      .def_prop_ro("quota_version", [](const CpuLimits& self) { return self.quota.version; })
      .def_prop_ro("quota_folder", [](const CpuLimits& self) { return self.quota.folder; })
      .def_prop_ro("threads", &CpuLimits::threads);
  m.def("cpu_limits", &cpu_limits, "root"_a = "");
  nb::class_<ThreadPool>(m, "ThreadPool")
      .def(
          "__init__",
          [](ThreadPool* self, int64_t num_threads) {
            new (self) ThreadPool(checked_int(num_threads, 1, kMaxThreads, "num_threads"));
          },
          "num_threads"_a)
      .def_prop_ro("size", &ThreadPool::size);
  m.def(
      "packed_bytes",
      [](const std::string& format, int64_t n, int64_t k, int64_t group, bool has_zero) {
        return packed_shape(format, n, k, group, has_zero).bytes();
      },
      nb::kw_only(), "format"_a, "n"_a, "k"_a, "group"_a = 0, "has_zero"_a = false);
  m.def("pack", &pack_sources, "sources"_a, "dst"_a.noconvert(), nb::kw_only(), "format"_a, "group"_a,
        "has_zero"_a, "interleave"_a, "pool"_a);
  m.def("unpack", &unpack_all, "data"_a.noconvert(), nb::kw_only(), "format"_a, "n"_a, "k"_a, "group"_a = 0,
        "has_zero"_a = false);
  m.def("checksum", &checksum_bytes, "data"_a.noconvert(), "pool"_a);
  m.def("read_bandwidth", &measure_bandwidth, "num_bytes"_a, "repeats"_a, "pool"_a, "passes"_a = 1,
        "segments"_a = 1);
  m.def(
      "int8_peak",
      [](double seconds, ThreadPool& pool, const std::string& isa) {
        return measure_peak(&Kernels::int8_peak, seconds, pool, isa);
      },
      "seconds"_a, "pool"_a, "isa"_a = "");
  m.def(
      "fp32_peak",
      [](double seconds, ThreadPool& pool, const std::string& isa) {
        return measure_peak(&Kernels::fp32_peak, seconds, pool, isa);
      },
      "seconds"_a, "pool"_a, "isa"_a = "");
  m.def("linear", &linear_once, "data"_a.noconvert(), "x"_a.noconvert(), nb::kw_only(), "format"_a, "n"_a,
        "group"_a = 0, "has_zero"_a = false, "isa"_a = "", "pool"_a.none() = nb::none());
}

}  // namespace narrows::python
