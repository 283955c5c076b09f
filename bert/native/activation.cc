// out = activation(x + bias), for the activations of BERT's family.
//
// Inputs: x [rows, units], bias [units]. bert_bias_gelu is of gelu; bert_bias_activation has an
// attribute, kind: see with_activation.
#include "activations.h"

namespace bert {
namespace {

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
  return with_activation<false>(integer(attributes, "kind"), [=](auto activation) {
    return apply<decltype(activation)>(inputs, outputs);
  });
}

MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  return with_activation<false>(integer(attributes, "kind"), [=](auto activation) {
    return differentiate<decltype(activation)>(inputs, outputs);
  });
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
