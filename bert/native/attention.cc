// Multi-head attention on packed rows (Vaswani et al. 2017, equation 1): the tokens of all pairs
// stand one after the other, pair b in rows offsets[b] to offsets[b + 1], and nothing is padded.
//
// bert_attention: every token attends to its pair.
//   Inputs: qkv [tokens, 3 units] (the dense layers' outputs without bias), bias [3 units],
//   offsets [pairs + 1] int32, dropout [2] int32. Output [tokens, units].
// bert_cls_attention: only each pair's first token does, which is all the last layer needs.
//   Inputs: q [pairs, units], kv [tokens, 2 units], bias [3 units], offsets, dropout.
//   Output [pairs, units].
// Attributes: heads, site (which dropout of the network).
#include "attention.h"

namespace bert {
namespace {

// The two forms differ in where queries, keys and values come from; inputs from `first` on.
template <bool cls>
Batch<float> batch_of(const Attributes& attributes, Tensors* inputs, int first) {
  const int units = (*inputs)[first].shape[1] / (cls ? 1 : 3);
  const float* q = data(inputs, first);
  const float* k = cls ? data(inputs, first + 1) : q + units;
  const int offsets = first + (cls ? 3 : 2);
  return {q,
          k,
          k + units,
          data(inputs, offsets - 1),
          data<int32_t>(inputs, offsets),
          cls ? units : 3 * units,
          cls ? 2 * units : 3 * units,
          (*inputs)[offsets].shape[0] - 1,
          (*inputs)[first + (cls ? 1 : 0)].shape[0],
          units,
          integer(attributes, "heads"),
          cls,
          Dropout(data<int32_t>(inputs, offsets + 1), integer(attributes, "site"))};
}

template <bool cls>
MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const Batch<float> batch = batch_of<cls>(attributes, inputs, 0);
  if (const char* complaint = batch.find_complaint()) return refuse("bert_attention", complaint);
  float* out = data(outputs, 0);
#pragma omp parallel
  attend(batch, omp_get_thread_num(), omp_get_num_threads(), out, batch.units);
  return mxnet::ext::MX_SUCCESS;
}

template <bool cls>
MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const Batch<float> batch = batch_of<cls>(attributes, inputs, 1);
  if (const char* complaint = batch.find_complaint()) return refuse("bert_attention", complaint);
  float* dq = data(outputs, 0);
  float* dk = cls ? data(outputs, 1) : dq + batch.units;
  ColumnSums dbias(3 * batch.units);
#pragma omp parallel
  attend_backward(batch, omp_get_thread_num(), omp_get_num_threads(), data(inputs, 0), batch.units,
                  dq, dk, dk + batch.units, dbias.mine());
  dbias.store(data(outputs, cls ? 2 : 1));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue self_shape(const Attributes& attributes, Shapes* in, Shapes* out) {
  std::string wrong = wrong_dimensions(*in, {2, 1, 1, 1});
  if (wrong.empty() && (*in)[0][1] % 3) wrong = "the columns are not queries, keys and values";
  if (wrong.empty()) wrong = wrong_heads(attributes, (*in)[0][1] / 3);
  if (!wrong.empty()) return refuse("bert_attention", wrong);
  (*in)[1] = {(*in)[0][1]};
  (*in)[3] = {2};
  (*out)[0] = {(*in)[0][0], (*in)[0][1] / 3};
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue cls_shape(const Attributes& attributes, Shapes* in, Shapes* out) {
  std::string wrong = wrong_dimensions(*in, {2, 2, 1, 1, 1});
  if (wrong.empty()) wrong = wrong_heads(attributes, (*in)[0][1]);
  if (!wrong.empty()) return refuse("bert_cls_attention", wrong);
  (*in)[1] = {(*in)[1][0], 2 * (*in)[0][1]};
  (*in)[2] = {3 * (*in)[0][1]};
  (*in)[3] = {(*in)[0][0] + 1};
  (*in)[4] = {2};
  (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_attention)
    .setForward(forward<false>, "cpu")
    .setBackward(backward<false>, "cpu")
    .setParseAttrs(one_output<4>)
    .setInferType(infer_type<2, 3>)
    .setInferShape(self_shape);

REGISTER_OP(bert_cls_attention)
    .setForward(forward<true>, "cpu")
    .setBackward(backward<true>, "cpu")
    .setParseAttrs(one_output<5>)
    .setInferType(infer_type<3, 4>)
    .setInferShape(cls_shape);

}  // namespace bert
