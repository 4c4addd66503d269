// Element-wise operators: activations with and without a gate, addition, scaling and the soft cap.
#include "ops/float_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

// All three smooth activations vanish below kFloor in float; without it -inf would be multiplied by 0.
constexpr float kFloor = -200.0f;

struct Silu {
  static Vec apply(Vec x) {
    x = max_of(broadcast(kFloor), x);
    return div(x, add(broadcast(1.0f), exp_of(sub(broadcast(0.0f), x))));
  }
};

struct GeluTanh {  // 0.5 (1 + tanh u) = sigmoid(2u), without the cancellation for negative x
  static Vec apply(Vec x) {
    const Vec cubic = mul(mul(mul(x, x), x), broadcast(0.044715f));
    const Vec twice_u = mul(add(x, cubic), broadcast(1.5957691216057308f));
    return mul(max_of(broadcast(kFloor), x), sigmoid_of(twice_u));
  }
};

struct GeluErf {
  static Vec apply(Vec x) {
    const Vec erf = erf_of(mul(x, broadcast(0.70710678118654752f)));
    const Vec half = mul(max_of(broadcast(kFloor), x), broadcast(0.5f));
    return fma(half, erf, half);
  }
};

struct Relu {
  static Vec apply(Vec x) { return max_of(broadcast(0.0f), x); }
};

struct Relu2 {
  static Vec apply(Vec x) {
    const Vec y = Relu::apply(x);
    return mul(y, y);
  }
};

template <typename Function>
void map(const Function& function, const float* x, float* out, int32_t n) {
  int32_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(out + i, function(load(x + i)));
  if (i < n) store_partial(out + i, function(load_partial(x + i, n - i)), n - i);
}

static_assert(kPanel % kWidth == 0);

template <typename Function>
void map2(const Function& function, const float* x, const float* y, float* out, int32_t n) {
  int32_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(out + i, function(load(x + i), load(y + i)));
  if (i < n) store_partial(out + i, function(load_partial(x + i, n - i), load_partial(y + i, n - i)), n - i);
}

// Calls body with the activation's type: one switch per row, not per element.
template <typename Body>
void with_activation(ActivationKind kind, const Body& body) {
  switch (kind) {
    case ActivationKind::silu: return body(Silu());
    case ActivationKind::gelu_tanh: return body(GeluTanh());
    case ActivationKind::gelu_erf: return body(GeluErf());
    case ActivationKind::relu: return body(Relu());
    case ActivationKind::relu2: return body(Relu2());
  }
}

}  // namespace

void activate(ActivationKind kind, float* x, int32_t n) {
  with_activation(kind, [&](auto f) { map([](Vec v) { return decltype(f)::apply(v); }, x, x, n); });
}

void activate_gated(ActivationKind kind, const float* panels, float* out, int32_t pairs) {
  with_activation(kind, [&](auto f) {
    for (int64_t i = 0; i < int64_t{pairs} * kPanel; i += kWidth) {
      const float* gate = panels + i / kPanel * (2 * kPanel) + i % kPanel;
      store(out + i, mul(decltype(f)::apply(load(gate)), load(gate + kPanel)));
    }
  });
}

void add(float* x, const float* y, int32_t n) {
  map2([](Vec a, Vec b) { return add(a, b); }, x, y, x, n);
}

void scale(float* x, float factor, int32_t n) {
  const Vec f = broadcast(factor);
  map([f](Vec v) { return mul(v, f); }, x, x, n);
}

void softcap(float* x, float cap, int32_t n) {
  const Vec c = broadcast(cap);
  map([c](Vec v) { return mul(c, tanh_of(div(v, c))); }, x, x, n);
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
