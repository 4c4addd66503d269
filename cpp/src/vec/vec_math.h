// exp, tanh, erf and the logistic function of a Vec: the same polynomials on every instruction set. NaN stays
// NaN; no finite or infinite input makes one. Included by vec.h. Coefficients: Cephes expf, tanhf, erff (S.
// Moshier) and Abramowitz & Stegun 7.1.26.
#pragma once
#include "ops/isa.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

/// e^x within 2 ulp for normal results, gradual underflow, inf above 88.73.
inline Vec exp_of(Vec x) {
  x = min_of(broadcast(89.0f), max_of(broadcast(-104.0f), x));  // constants first: max_of hands a NaN on
  const Vec n = round_nearest(mul(x, broadcast(1.44269504088896341f)));
  Vec r = fma(n, broadcast(-0.693359375f), x);  // ln 2 in two parts: n times the first is exact
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  return times_pow2(add(fma(p, mul(r, r), r), broadcast(1.0f)), n);
}

/// Within 2 ulp of tanh below 0.625 and 1e-7 above.
inline Vec tanh_of(Vec x) {
  const Vec magnitude = abs_of(x);
  const Vec z = mul(x, x);
  Vec p = broadcast(-5.70498872745e-3f);
  p = fma(p, z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const Vec small = fma(mul(p, z), x, x);
  const Vec one = broadcast(1.0f);
  const Vec large = sub(one, div(broadcast(2.0f), add(exp_of(add(magnitude, magnitude)), one)));
  return select(not_less(magnitude, broadcast(0.625f)), copy_sign(large, x), small);
}

/// 1 - erf(x) for x >= 0, absolute error below 3e-7.
inline Vec erfc_nonnegative(Vec x) {
  const Vec t = div(broadcast(1.0f), fma(broadcast(0.3275911f), x, broadcast(1.0f)));
  Vec p = broadcast(1.061405429f);
  p = fma(p, t, broadcast(-1.453152027f));
  p = fma(p, t, broadcast(1.421413741f));
  p = fma(p, t, broadcast(-0.284496736f));
  p = fma(p, t, broadcast(0.254829592f));
  return mul(mul(p, t), exp_of(sub(broadcast(0.0f), mul(x, x))));
}

/// Within 5e-7 of erf.
inline Vec erf_of(Vec x) {
  const Vec z = mul(x, x);
  Vec p = broadcast(7.853861353153693e-5f);
  p = fma(p, z, broadcast(-8.010193625184903e-4f));
  p = fma(p, z, broadcast(5.188327685732524e-3f));
  p = fma(p, z, broadcast(-2.685381193529856e-2f));
  p = fma(p, z, broadcast(1.128358514861418e-1f));
  p = fma(p, z, broadcast(-3.761262582423300e-1f));
  p = fma(p, z, broadcast(1.128379165726710f));
  const Vec magnitude = abs_of(x);
  const Vec large = sub(broadcast(1.0f), erfc_nonnegative(magnitude));
  return select(not_less(magnitude, broadcast(1.0f)), copy_sign(large, x), mul(p, x));
}

/// 1 / (1 + e^-x), accurate relative to itself on both sides.
inline Vec sigmoid_of(Vec x) {
  const Vec e = exp_of(sub(broadcast(0.0f), abs_of(x)));
  const Vec numerator = select(not_less(x, broadcast(0.0f)), broadcast(1.0f), e);
  return div(numerator, add(broadcast(1.0f), e));
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
