// out = gelu(x + bias)
//
// Inputs: x [rows, units], bias [units].
#include "gelu.h"

namespace bert {
namespace {

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
  ColumnSums dbias(units);
#pragma omp parallel
  {
    const Share share(rows);
    float* my_bias = dbias.mine();
    for (int64_t row = share.begin; row < share.end; ++row) {
      const float *d = dy + row * units, *in = x + row * units;
      float* dxrow = dx + row * units;
#pragma omp simd
      for (int c = 0; c < units; ++c) {
        float bell;
        const float z = in[c] + bias[c];
        const float cdf = normal_cdf(z, &bell);
        const float gradient = d[c] * (cdf + z * bell * 0.398942280f);
        dxrow[c] = gradient;
        my_bias[c] += gradient;
      }
    }
  }
  dbias.store(data(outputs, 1));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const std::string wrong = wrong_dimensions(*in, {2, 1});
  if (!wrong.empty()) return refuse("bert_bias_gelu", wrong);
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
