// One layer of the encoder in training (Devlin et al. 2018, section 3), as one operator.
//
//   attended = LayerNorm(x + dropout(attention(x) Wo^T + bo))
//   out = LayerNorm(attended + dropout(activation(attended W1^T + b1) W2^T + b2))
//
// Inputs: x [tokens, units], offsets [pairs + 1] int32, dropout [2] int32; weight [units, units] and
// bias [units] of queries, keys, values and Wo; gamma, beta [units]; W1 [hidden, units], b1
// [hidden], W2 [units, hidden], b2 [units]; gamma, beta [units]. Output [tokens, units], with cls
// [pairs, units].
// Attributes: heads, site (of the first of three dropouts), eps, kind (of the activation, see
// with_activation), cls (only the first token of each pair leaves the layer), bfloat16 (factors of
// products are rounded to bfloat16, and added up in float32; without it all is float32).
//
// Of the gradients, the products' results are rounded to bfloat16 where they are factors again; those
// of weights, biases and LayerNorm are sums in float32. Each sum has one order for a number of threads.
// The state that MXNet keeps for the operator has what forward leaves for backward.
#include "layer_backward.h"
#include "layer_forward.h"

namespace bert {
namespace {

constexpr char kName[] = "bert_layer";
constexpr int kInputs = 19;

LayerInputs inputs_of(const Attributes& attributes, Tensors* in, int first) {
  const auto dense = [&](int index) {
    return Dense{data(in, first + index), data(in, first + index + 1)};
  };
  const auto norm = [&](int index) {
    return Norm{data(in, first + index), data(in, first + index + 1)};
  };
  return {(*in)[first].shape[0],
          (*in)[first + 1].shape[0] - 1,
          (*in)[first].shape[1],
          (*in)[first + 13].shape[0],
          integer(attributes, "heads"),
          integer(attributes, "site"),
          integer(attributes, "kind"),
          number(attributes, "eps"),
          integer(attributes, "cls") != 0,
          data(in, first),
          data<int32_t>(in, first + 1),
          data<int32_t>(in, first + 2),
          dense(3),
          dense(5),
          dense(7),
          dense(9),
          norm(11),
          dense(13),
          dense(15),
          norm(17)};
}

LayerGradients gradients_of(Tensors* out) {
  const auto at = [&](int index) { return data(out, index); };
  return {at(0), at(3), at(5), at(7),  {at(4), at(6), at(8)}, at(9), at(10), at(11), at(12), at(13),
          at(14), at(15), at(16), at(17), at(18)};
}

// Wrong offsets would read somebody else's memory.
std::string complaint_of(const LayerInputs& in) {
  const char* complaint = LayerKept<Float32>::attention_of(in, {}).find_complaint();
  return complaint ? complaint : "";
}

template <typename Type>
class Layer : public mxnet::ext::CustomStatefulOp {
 public:
  explicit Layer(Attributes attributes) : attributes_(attributes) {}

  MXReturnValue Forward(Tensors* inputs, Tensors* outputs, const OpResource&) override {
    const LayerInputs in = inputs_of(attributes_, inputs, 0);
    kept_ = LayerKept<Type>();
    const std::string complaint = complaint_of(in);
    if (!complaint.empty()) return refuse(kName, complaint);
    try {
      LayerKept<Type> kept(in);
      reserve(&memory_, &kept);
      LayerForward<Type> forward(in, kept, data(outputs, 0));
      Memory scratch;
      reserve(&scratch, &forward);
      forward.run();
      kept_ = kept;
    } catch (const std::bad_alloc&) {
      return refuse(kName, "out of memory");
    }
    return mxnet::ext::MX_SUCCESS;
  }

  // MXNet calls it even where forward has failed.
  MXReturnValue Backward(Tensors* inputs, Tensors* outputs, const OpResource&) override {
    const LayerInputs in = inputs_of(attributes_, inputs, 1);
    if (kept_.tokens != in.tokens || kept_.rows != in.rows())
      return refuse(kName, "backward without forward");
    const LayerGradients gradients = gradients_of(outputs);
    try {
      LayerBackward<Type> backward(in, kept_, data(inputs, 0), gradients);
      Memory scratch;
      reserve(&scratch, &backward);
      backward.run();
    } catch (const std::bad_alloc&) {
      return refuse(kName, "out of memory");
    }
    kept_ = LayerKept<Type>();
    memory_.release();
    return mxnet::ext::MX_SUCCESS;
  }

 private:
  const Attributes attributes_;
  Memory memory_;
  LayerKept<Type> kept_;
};

MXReturnValue create(const Attributes& attributes, const mxnet::ext::MXContext&,
                     const Shapes&, const Types, mxnet::ext::CustomStatefulOp** op) {
  using mxnet::ext::CustomStatefulOp;
  if (integer(attributes, "bfloat16"))
    *op = CustomStatefulOp::create<Layer<BFloat16>>(attributes);
  else
    *op = CustomStatefulOp::create<Layer<Float32>>(attributes);
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes& attributes, Shapes* in, Shapes* out) {
  std::string wrong =
      wrong_dimensions(*in, {2, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 2, 1, 2, 1, 1, 1});
  if (wrong.empty()) wrong = wrong_heads(attributes, (*in)[0][1]);
  if (!wrong.empty()) return refuse(kName, wrong);
  const unsigned units = (*in)[0][1], hidden = (*in)[13][0];
  (*in)[2] = {2};
  for (size_t i : {3, 5, 7, 9}) (*in)[i] = {units, units};
  for (size_t i : {4, 6, 8, 10, 11, 12, 16, 17, 18}) (*in)[i] = {units};
  (*in)[13] = {hidden, units};
  (*in)[14] = {hidden};
  (*in)[15] = {units, hidden};
  const unsigned rows = integer(attributes, "cls") ? (*in)[1][0] - 1 : (*in)[0][0];
  (*out)[0] = {rows, units};
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_layer)
    .setParseAttrs(one_output<kInputs>)
    .setInferType(infer_type<1, 2>)
    .setInferShape(infer_shape)
    .setCreateOpState(create, "cpu");

}  // namespace bert
