// LayerNorm of one row (Ba et al. 2016), of which the operators with a LayerNorm are made.
#pragma once

#include "common.h"

namespace bert {

// Replaces a row by n = (x - mean) / deviation; returns 1 / deviation.
inline float normalise(float* x, int units, float eps) {
  float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
  for (int c = 0; c < units; ++c) mean += x[c];
  mean /= units;
#pragma omp simd reduction(+ : variance)
  for (int c = 0; c < units; ++c) {
    x[c] -= mean;
    variance += x[c] * x[c];
  }
  const float rstd = 1.0f / std::sqrt(variance / units + eps);
#pragma omp simd
  for (int c = 0; c < units; ++c) x[c] *= rstd;
  return rstd;
}

// dx = rstd (g - mean(g) - n mean(g n)) with g = dy gamma, written over n; adds to the sums.
inline void normalise_backward(const float* dy, const float* gamma, float rstd, int units, float* n,
                               float* dgamma, float* dbeta) {
  float mean_g = 0, mean_gn = 0;
#pragma omp simd reduction(+ : mean_g, mean_gn)
  for (int c = 0; c < units; ++c) {
    const float g = dy[c] * gamma[c], gradient = dy[c] * n[c];
    mean_g += g;
    mean_gn += g * n[c];
    dgamma[c] += gradient;
    dbeta[c] += dy[c];
  }
  mean_g /= units;
  mean_gn /= units;
#pragma omp simd
  for (int c = 0; c < units; ++c) n[c] = rstd * (dy[c] * gamma[c] - mean_g - n[c] * mean_gn);
}

}  // namespace bert
