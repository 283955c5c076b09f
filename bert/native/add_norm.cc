// out = LayerNorm(residual + dropout(x + bias)): how both halves of an encoder layer end.
//
// Inputs: x [rows, units], bias [units], residual [rows, units], gamma [units], beta [units],
// dropout [2] int32. Attributes: site (which dropout of the network), eps.
// One pass forward; one pass backward, in which the sum and its statistics are computed again.
#include "layer_norm.h"

namespace bert {
namespace {

// sum = residual + dropout(x + bias)
void add_row(const float* x, const float* bias, const float* residual, int64_t row, int units,
             const Dropout& dropout, float* sum) {
  dropout.with_mask(row, [=](auto mask) {
#pragma omp simd
    for (int c = 0; c < units; ++c) sum[c] = residual[c] + (x[c] + bias[c]) * mask(c);
  });
}

MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const int64_t rows = (*inputs)[0].shape[0];
  const int units = (*inputs)[0].shape[1];
  const float *x = data(inputs, 0), *bias = data(inputs, 1), *residual = data(inputs, 2);
  const float *gamma = data(inputs, 3), *beta = data(inputs, 4);
  const Dropout dropout(data<int32_t>(inputs, 5), integer(attributes, "site"));
  const float eps = number(attributes, "eps");
  float* out = data(outputs, 0);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    float* y = out + row * units;
    add_row(x + row * units, bias, residual + row * units, row, units, dropout, y);
    normalise(y, units, eps);
#pragma omp simd
    for (int c = 0; c < units; ++c) y[c] = y[c] * gamma[c] + beta[c];
  }
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const int64_t rows = (*inputs)[1].shape[0];
  const int units = (*inputs)[1].shape[1];
  const float *dy = data(inputs, 0), *x = data(inputs, 1), *bias = data(inputs, 2);
  const float *residual = data(inputs, 3), *gamma = data(inputs, 4);
  const Dropout dropout(data<int32_t>(inputs, 6), integer(attributes, "site"));
  const float eps = number(attributes, "eps");
  float *dx = data(outputs, 0), *dresidual = data(outputs, 2);
  ColumnSums dbias(units), dgamma(units), dbeta(units);
#pragma omp parallel
  {
    const Share share(rows);
    float* my_bias = dbias.mine();
    for (int64_t row = share.begin; row < share.end; ++row) {
      float *dsum = dresidual + row * units, *dxrow = dx + row * units;
      add_row(x + row * units, bias, residual + row * units, row, units, dropout, dsum);
      const float rstd = normalise(dsum, units, eps);
      normalise_backward(dy + row * units, gamma, rstd, units, dsum, dgamma.mine(), dbeta.mine());
      dropout.with_mask(row, [=](auto mask) {
#pragma omp simd
        for (int c = 0; c < units; ++c) {
          const float gradient = dsum[c] * mask(c);
          dxrow[c] = gradient;
          my_bias[c] += gradient;
        }
      });
    }
  }
  dbias.store(data(outputs, 1));
  dgamma.store(data(outputs, 3));
  dbeta.store(data(outputs, 4));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const std::string wrong = wrong_dimensions(*in, {2, 1, 2, 1, 1, 1});
  if (!wrong.empty()) return refuse("bert_add_norm", wrong);
  const unsigned units = (*in)[0][1];
  (*in)[1] = (*in)[3] = (*in)[4] = {units};
  (*in)[2] = (*out)[0] = (*in)[0];
  (*in)[5] = {2};
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
