// F32, F16 and BF16 weights times fp32 activations, accumulated in fp32. Every (row, channel) is one chain
// acc = fma(w[k], x[k], acc), k ascending, in every path and instruction set; independent chains come from
// taking several panels and rows at once.
#include "linear_lanes.h"
#include "linear_ops.h"
#include "stream_ahead.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

#if defined(NARROWS_ISA_AVX512VNNI)
constexpr int kRows = 8;  // 8 rows x 2 panels: 16 accumulators + 2 weights + broadcasts of 32 registers
constexpr int panels_for(int rows) { return rows == 3 || rows == 4 ? 4 : 2; }
#elif defined(NARROWS_ISA_AVX2)
constexpr int kRows = 4;  // 4 rows x 1 panel: 8 accumulators + 2 weights + broadcasts of 16 registers
constexpr int panels_for(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
#else
constexpr int kRows = 1;
constexpr int panels_for(int) { return 1; }
#endif

template <Format kFormat>
inline Lanes load_weights(const uint8_t* panel, int64_t k) {
  if constexpr (kFormat == Format::F32) return load_f32(reinterpret_cast<const float*>(panel) + k * kPanel);
  const auto* half = reinterpret_cast<const uint16_t*>(panel) + k * kPanel;
  if constexpr (kFormat == Format::F16) return load_f16(half);
  return load_bf16(half);
}

inline void prefetch([[maybe_unused]] const uint8_t* p) {
#if !defined(NARROWS_ISA_GENERIC)
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
#endif
}

template <int R, int P>
using Sums = Lanes[P][R];

/// acc += W[.][k] * x[.][k] for one k.
template <Format kFormat, int R, int P>
inline __attribute__((always_inline)) void add_step(Sums<R, P>& acc, const uint8_t* w, int64_t panel_bytes,
                                                    int64_t k, const float* x, int64_t ld) {
  Lanes weights[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) weights[p] = load_weights<kFormat>(w + p * panel_bytes, k);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const float xr = x[r * ld + k];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[p][r] = fma(weights[p], xr, acc[p][r]);
  }
}

/// R rows against P panels; `channels` of the last panel exist.
template <Format kFormat, int R, int P>
void tile(const uint8_t* w, int64_t panel_bytes, int64_t k_end, const float* x, int64_t ld, int32_t channels,
          float* out, int64_t ld_out) {
  constexpr int kPerLine = kFormat == Format::F32 ? 1 : 2;  // k in 64 bytes of a panel
  Sums<R, P> acc;
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[p][r] = zero_lanes();
  }
  const int64_t ahead = kStreamAhead;
  int64_t k = 0;
  for (; k + kPerLine <= k_end; k += kPerLine) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) prefetch(w + p * panel_bytes + k / kPerLine * 64 + ahead);
#pragma GCC unroll 2
    for (int i = 0; i < kPerLine; ++i) add_step<kFormat, R, P>(acc, w, panel_bytes, k + i, x, ld);
  }
  if (k < k_end) add_step<kFormat, R, P>(acc, w, panel_bytes, k, x, ld);
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      store(out + r * ld_out + p * kPanel, acc[p][r], p == P - 1 ? channels : kPanel);
  }
}

struct Job {
  const uint8_t* w;
  int64_t panel_bytes;
  int32_t panels, channels;  // of the last panel
  int64_t k;
  const float* x;
  int64_t ld;
  float* out;
  int64_t ld_out;
};

/// R rows against all panels of the job.
template <Format kFormat, int R>
void rows_by_panels(const Job& job) {
  constexpr int P = panels_for(R);
  int32_t p = 0;
  for (; p + P <= job.panels; p += P) {
    tile<kFormat, R, P>(job.w + p * job.panel_bytes, job.panel_bytes, job.k, job.x, job.ld,
                        p + P == job.panels ? job.channels : kPanel, job.out + p * kPanel, job.ld_out);
  }
  for (; p < job.panels; ++p) {
    tile<kFormat, R, 1>(job.w + p * job.panel_bytes, job.panel_bytes, job.k, job.x, job.ld,
                        p + 1 == job.panels ? job.channels : kPanel, job.out + p * kPanel, job.ld_out);
  }
}

template <Format kFormat, int R>
void dispatch_rows(const Job& job, int32_t rows) {
  if (rows == R) return rows_by_panels<kFormat, R>(job);
  if constexpr (R > 1) dispatch_rows<kFormat, R - 1>(job, rows);
}

/// Panels in slices that stay in cache while all rows pass over them.
template <Format kFormat>
void all_rows(const Job& whole, int32_t rows) {
  const int32_t slice = rows <= kRows ? whole.panels : panels_for(kRows);
  for (int32_t p = 0; p < whole.panels; p += slice) {
    Job job = whole;
    job.w += p * whole.panel_bytes;
    job.panels = whole.panels - p < slice ? whole.panels - p : slice;
    job.channels = p + job.panels == whole.panels ? whole.channels : kPanel;
    for (int32_t r = 0; r < rows; r += kRows) {
      job.x = whole.x + r * whole.ld;
      job.out = whole.out + r * whole.ld_out + int64_t{p} * kPanel;
      dispatch_rows<kFormat, kRows>(job, rows - r < kRows ? rows - r : kRows);
    }
  }
}

}  // namespace

void linear_float(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                  float* out, int64_t ld_out) {
  const int32_t left = w.n - (panel_end - 1) * kPanel;
  const Job job{w.data + panel_begin * w.panel_bytes(),
                w.panel_bytes(),
                panel_end - panel_begin,
                left < kPanel ? left : kPanel,
                w.k,
                a.f32,
                a.ld,
                out,
                ld_out};
  switch (w.format) {
    case Format::F32: return all_rows<Format::F32>(job, a.rows);
    case Format::F16: return all_rows<Format::F16>(job, a.rows);
    default: return all_rows<Format::BF16>(job, a.rows);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
