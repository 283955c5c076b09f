// out = gelu(x + bias), gelu(z) = z Φ(z) with the exact normal cdf Φ (Hendrycks and Gimpel 2016).
//
// Inputs: x [rows, units], bias [units].
#include "common.h"

namespace bert {
namespace {

// Φ(z), and e^(-z²/2) of which the density is a multiple. erf by Abramowitz and Stegun 7.1.26,
// whose error is below 1.5e-7.
inline float normal_cdf(float z, float* bell) {
  const float a = std::fabs(z) * 0.707106781f;
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  *bell = exponential(-0.5f * z * z);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = 0.5f * p * t * *bell;  // Φ(-|z|)
  return z < 0 ? tail : 1.0f - tail;
}

MXReturnValue forward(const Attributes&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  const int64_t rows = (*inputs)[0].shape[0];
  const int units = (*inputs)[0].shape[1];
  const float *x = data(inputs, 0), *bias = data(inputs, 1);
  float* out = data(outputs, 0);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const float* in = x + row * units;
    float* y = out + row * units;
#pragma omp simd
    for (int c = 0; c < units; ++c) {
      float bell;
      const float z = in[c] + bias[c];
      y[c] = z * normal_cdf(z, &bell);
    }
  }
  return mxnet::ext::MX_SUCCESS;
}

// gelu'(z) = Φ(z) + z φ(z)
MXReturnValue backward(const Attributes&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  const int64_t rows = (*inputs)[1].shape[0];
  const int units = (*inputs)[1].shape[1];
  const float *dy = data(inputs, 0), *x = data(inputs, 1), *bias = data(inputs, 2);
  float* dx = data(outputs, 0);
  const int threads = omp_get_max_threads();
  std::vector<float> dbias(threads * units);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const Range range(rows, thread, threads);
    float* my_bias = &dbias[thread * units];
    for (int64_t row = range.begin; row < range.end; ++row) {
      const float *d = dy + row * units, *in = x + row * units;
      float* dxrow = dx + row * units;
#pragma omp simd
      for (int c = 0; c < units; ++c) {
        float bell;
        const float z = in[c] + bias[c];
        const float cdf = normal_cdf(z, &bell);
        dxrow[c] = d[c] * (cdf + z * bell * 0.398942280f);
        my_bias[c] += dxrow[c];
      }
    }
  }
  add_partial_sums(dbias, threads, units, data(outputs, 1));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  (*in)[1] = {(*in)[0][1]};
  (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_bias_gelu)
    .setForward(forward, "cpu")
    .setBackward(backward, "cpu")
    .setParseAttrs(one_output<2>)
    .setInferType(infer_type<>)
    .setInferShape(infer_shape);

}  // namespace bert
