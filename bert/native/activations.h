// The activations of BERT's family, and their derivatives.
#pragma once

#include "gelu.h"

namespace bert {

inline float sigmoid(float z) {
  // Of a negative number, so that nothing overflows.
  const float e = exponential(-std::fabs(z));
  return (z < 0 ? e : 1.0f) / (1.0f + e);
}

// gelu'(z) = Φ(z) + z φ(z)
struct Gelu {
  static float value(float z) {
    float bell;
    return z * normal_cdf(z, &bell);
  }
  static float derivative(float z) {
    float bell;
    const float cdf = normal_cdf(z, &bell);
    return cdf + z * bell * 0.398942280f;
  }
};

struct Relu {
  static float value(float z) { return z < 0 ? 0 : z; }  // of nan, nan
  static float derivative(float z) { return z > 0 ? 1.0f : 0.0f; }
};

struct Silu {
  static float value(float z) { return z * sigmoid(z); }
  static float derivative(float z) {
    const float s = sigmoid(z);
    return s + z * s * (1 - s);
  }
};

// z/2 (1 + tanh(√(2/π) (z + 0.044715 z³))), which is z sigmoid(2 √(2/π) (z + 0.044715 z³)).
struct GeluNew {
  static constexpr float kScale = 1.59576912f, kCubic = 0.044715f;
  static float value(float z) { return z * sigmoid(kScale * z * (1 + kCubic * z * z)); }
  static float derivative(float z) {
    const float s = sigmoid(kScale * z * (1 + kCubic * z * z));
    return s + z * s * (1 - s) * kScale * (1 + 3 * kCubic * z * z);
  }
};

// Calls work with the activation that an operator's attribute names. `rough`: for bfloat16.
template <bool rough, typename Work>
auto with_activation(int kind, const Work& work) {
  switch (kind) {
    case 0: return work(Relu());
    case 1: return work(Silu());
    case 2: return work(GeluNew());
    default: return work(std::conditional_t<rough, RoughGelu, Gelu>());
  }
}

}  // namespace bert
