// out = LayerNorm(residual + dropout(x + bias)): how both halves of an encoder layer end.
//
// Inputs: x [rows, units], bias [units], residual [rows, units], gamma [units], beta [units],
// dropout [2] int32. Attributes: site (which dropout of the network), eps.
// One pass forward; one pass backward, in which the sum and its statistics are computed again.
#include "common.h"

namespace bert {
namespace {

struct Row {
  float mean, rstd;
};

// sum = residual + dropout(x + bias), and its mean and 1 / standard deviation.
Row sum_row(const float* x, const float* bias, const float* residual, int64_t row, int units,
            const Dropout& dropout, float eps, float* sum) {
  if (dropout.active()) {
    const uint32_t key = dropout.block_key(row);
#pragma omp simd
    for (int c = 0; c < units; ++c)
      sum[c] = residual[c] + (x[c] + bias[c]) * dropout.factor(key, c);
  } else {
#pragma omp simd
    for (int c = 0; c < units; ++c) sum[c] = residual[c] + (x[c] + bias[c]);
  }
  float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
  for (int c = 0; c < units; ++c) mean += sum[c];
  mean /= units;
#pragma omp simd reduction(+ : variance)
  for (int c = 0; c < units; ++c) variance += (sum[c] - mean) * (sum[c] - mean);
  return {mean, 1.0f / std::sqrt(variance / units + eps)};
}

MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const int64_t rows = (*inputs)[0].shape[0];
  const int units = (*inputs)[0].shape[1];
  const float *x = data(inputs, 0), *bias = data(inputs, 1), *residual = data(inputs, 2);
  const float *gamma = data(inputs, 3), *beta = data(inputs, 4);
  const Dropout dropout(data<int32_t>(inputs, 5), integer(attributes, "site"));
  const float eps = std::stof(attributes.at("eps"));
  float* out = data(outputs, 0);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    float* y = out + row * units;
    const Row s =
        sum_row(x + row * units, bias, residual + row * units, row, units, dropout, eps, y);
#pragma omp simd
    for (int c = 0; c < units; ++c) y[c] = (y[c] - s.mean) * s.rstd * gamma[c] + beta[c];
  }
  return mxnet::ext::MX_SUCCESS;
}

// With n the normalised sum: d(sum) = rstd (g - mean(g) - n mean(g n)), where g = dy gamma.
MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const int64_t rows = (*inputs)[1].shape[0];
  const int units = (*inputs)[1].shape[1];
  const float *dy = data(inputs, 0), *x = data(inputs, 1), *bias = data(inputs, 2);
  const float *residual = data(inputs, 3), *gamma = data(inputs, 4);
  const Dropout dropout(data<int32_t>(inputs, 6), integer(attributes, "site"));
  const float eps = std::stof(attributes.at("eps"));
  float *dx = data(outputs, 0), *dresidual = data(outputs, 2);
  const int threads = omp_get_max_threads();
  std::vector<float> dbias(threads * units), dgamma(threads * units), dbeta(threads * units);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const Range range(rows, thread, threads);
    std::vector<float> n(units), g(units);
    float* my_bias = &dbias[thread * units];
    float* my_gamma = &dgamma[thread * units];
    float* my_beta = &dbeta[thread * units];
    for (int64_t row = range.begin; row < range.end; ++row) {
      const float* d = dy + row * units;
      float *drow = dresidual + row * units, *dxrow = dx + row * units;
      const Row s = sum_row(x + row * units, bias, residual + row * units, row, units, dropout,
                            eps, n.data());
      float mean_g = 0, mean_gn = 0;
#pragma omp simd reduction(+ : mean_g, mean_gn)
      for (int c = 0; c < units; ++c) {
        n[c] = (n[c] - s.mean) * s.rstd;
        g[c] = d[c] * gamma[c];
        mean_g += g[c];
        mean_gn += g[c] * n[c];
        my_gamma[c] += d[c] * n[c];
        my_beta[c] += d[c];
      }
      mean_g /= units;
      mean_gn /= units;
      if (dropout.active()) {
        const uint32_t key = dropout.block_key(row);
#pragma omp simd
        for (int c = 0; c < units; ++c) {
          const float dsum = s.rstd * (g[c] - mean_g - n[c] * mean_gn);
          const float dinner = dsum * dropout.factor(key, c);
          drow[c] = dsum;
          dxrow[c] = dinner;
          my_bias[c] += dinner;
        }
      } else {
#pragma omp simd
        for (int c = 0; c < units; ++c) {
          const float dsum = s.rstd * (g[c] - mean_g - n[c] * mean_gn);
          drow[c] = dxrow[c] = dsum;
          my_bias[c] += dsum;
        }
      }
    }
  }
  add_partial_sums(dbias, threads, units, data(outputs, 1));
  add_partial_sums(dgamma, threads, units, data(outputs, 3));
  add_partial_sums(dbeta, threads, units, data(outputs, 4));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const unsigned units = (*in)[0][1];
  (*in)[1] = (*in)[3] = (*in)[4] = {units};
  (*in)[2] = (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_add_norm)
    .setForward(forward, "cpu")
    .setBackward(backward, "cpu")
    .setParseAttrs(one_output<6>)
    .setInferType(infer_type<5>)
    .setInferShape(infer_shape);

}  // namespace bert
