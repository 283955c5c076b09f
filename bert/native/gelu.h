// gelu(z) = z Φ(z) with the exact normal cdf Φ (Hendrycks and Gimpel 2016).
#pragma once

#include "common.h"

namespace bert {

// Φ(z), and e^(-z²/2) of which the density is a multiple. As in Abramowitz and Stegun 7.1.26,
// Φ(-|z|) = t P(t) e^(-z²/2) with t = 1 / (1 + c |z|), but two degrees higher and fitted to the
// relative error, which stays below 1.2e-7 however small Φ becomes.
inline float normal_cdf(float z, float* bell) {
  const float t = 1.0f / (1.0f + 0.300520382f * std::fabs(z));
  *bell = exponential(-0.5f * z * z);
  float p = 0.036214731f;
  p = p * t - 0.158561666f;
  p = p * t + 0.207229772f;
  p = p * t - 0.054778906f;
  p = p * t + 0.129215041f;
  p = p * t + 0.099845011f;
  p = p * t + 0.121001999f;
  p = p * t + 0.119833962f;
  const float tail = p * t * *bell;
  return z < 0 ? tail : 1.0f - tail;
}

// gelu(z) and gelu'(z) to 3e-4 for |z| <= 6, for results that are rounded to bfloat16. Both Φ(z) and
// gelu'(z) are 1/2 plus an odd function of z, here a polynomial for |z| <= 4 and constant beyond.
struct RoughGelu {
  static float value(float z) {
    return z * (0.5f + odd(z, {0.398673385f, -0.0658878237f, 0.00950538460f, -0.00100648648f,
                               7.48544408e-5f, -3.65708252e-6f, 1.04193887e-7f, -1.30125744e-9f}));
  }
  static float derivative(float z) {
    return 0.5f + odd(z, {0.796721578f, -0.262029678f, 0.0559146889f, -0.00768739544f,
                          6.87637541e-4f, -3.84588493e-5f, 1.21377309e-6f, -1.64191860e-8f});
  }

 private:
  struct Coefficients {
    float c[8];
  };

  static float odd(float z, const Coefficients& p) {
    z = z < -4.0f ? -4.0f : z;  // in this order, nan stays nan
    z = z > 4.0f ? 4.0f : z;
    const float square = z * z;
    float sum = p.c[7];
    for (int i = 6; i >= 0; --i) sum = sum * square + p.c[i];
    return z * sum;
  }
};

}  // namespace bert
