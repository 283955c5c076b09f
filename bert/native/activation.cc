// out = activation(x + bias), for the activations of BERT's family.
//
// Inputs: x [rows, units], bias [units]. bert_bias_gelu is of gelu; bert_bias_activation has an
// attribute, kind: 0 to 2 for the others in the order below.
#include "gelu.h"

namespace bert {
namespace {

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

template <typename Activation>
MXReturnValue apply(Tensors* inputs, Tensors* outputs) {
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
  return mxnet::ext::MX_SUCCESS;
}

template <typename Activation>
MXReturnValue differentiate(Tensors* inputs, Tensors* outputs) {
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
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue gelu(const Attributes&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return apply<Gelu>(inputs, outputs);
}

MXReturnValue gelu_backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                            const OpResource&) {
  return differentiate<Gelu>(inputs, outputs);
}

MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const int kind = integer(attributes, "kind");
  return (kind == 0 ? apply<Relu> : kind == 1 ? apply<Silu> : apply<GeluNew>)(inputs, outputs);
}

MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const int kind = integer(attributes, "kind");
  return (kind == 0   ? differentiate<Relu>
          : kind == 1 ? differentiate<Silu>
                      : differentiate<GeluNew>)(inputs, outputs);
}

constexpr char kGelu[] = "bert_bias_gelu", kActivation[] = "bert_bias_activation";

template <const char* kName>
MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const std::string wrong = wrong_dimensions(*in, {2, 1});
  if (!wrong.empty()) return refuse(kName, wrong);
  (*in)[1] = {(*in)[0][1]};
  (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_bias_gelu)
    .setForward(gelu, "cpu")
    .setBackward(gelu_backward, "cpu")
    .setParseAttrs(one_output<2>)
    .setInferType(infer_type<>)
    .setInferShape(infer_shape<kGelu>);

REGISTER_OP(bert_bias_activation)
    .setForward(forward, "cpu")
    .setBackward(backward, "cpu")
    .setParseAttrs(one_output<2>)
    .setInferType(infer_type<>)
    .setInferShape(infer_shape<kActivation>);

}  // namespace bert
