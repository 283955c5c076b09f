// out = activation(x + bias), for the activations of BERT's family other than gelu.
//
// Inputs: x [rows, units], bias [units]. Attribute: kind, 0 to 2 in the order below.
#include "common.h"

namespace bert {
namespace {

inline float sigmoid(float z) {
  // Of a negative number, so that nothing overflows.
  const float e = exponential(-std::fabs(z));
  return (z < 0 ? e : 1.0f) / (1.0f + e);
}

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

template <typename Activation>
void apply(Tensors* inputs, Tensors* outputs) {
  const int64_t rows = (*inputs)[0].shape[0];
  const int units = (*inputs)[0].shape[1];
  const float *x = data(inputs, 0), *bias = data(inputs, 1);
  float* out = data(outputs, 0);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const float* in = x + row * units;
    float* y = out + row * units;
#pragma omp simd
    for (int c = 0; c < units; ++c) y[c] = Activation::value(in[c] + bias[c]);
  }
}

template <typename Activation>
void differentiate(Tensors* inputs, Tensors* outputs) {
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
        const float gradient = d[c] * Activation::derivative(in[c] + bias[c]);
        dxrow[c] = gradient;
        my_bias[c] += gradient;
      }
    }
  }
  dbias.store(data(outputs, 1));
}

MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const int kind = integer(attributes, "kind");
  (kind == 0 ? apply<Relu> : kind == 1 ? apply<Silu> : apply<GeluNew>)(inputs, outputs);
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const int kind = integer(attributes, "kind");
  (kind == 0 ? differentiate<Relu> : kind == 1 ? differentiate<Silu> : differentiate<GeluNew>)(
      inputs, outputs);
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const std::string wrong = wrong_dimensions(*in, {2, 1});
  if (!wrong.empty()) return refuse("bert_bias_activation", wrong);
  (*in)[1] = {(*in)[0][1]};
  (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_bias_activation)
    .setForward(forward, "cpu")
    .setBackward(backward, "cpu")
    .setParseAttrs(one_output<2>)
    .setInferType(infer_type<>)
    .setInferShape(infer_shape);

}  // namespace bert
