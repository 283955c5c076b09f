// One update of all parameters by BERTAdam, their gradients clipped by the global norm.
//
// Inputs: hyper [4] = scale of m (1, or the bias correction), epsilon, factor of the gradients
// (1 / examples), largest norm; lr [parameters]; decay [parameters]; then weight, gradient, m and v
// of every parameter. Attributes: parameters, beta1, beta2.
// Output: norm [1], of the gradients times their factor. Where it is not finite, nothing changes.
#include "common.h"

namespace bert {
namespace {

constexpr int kHead = 3;
constexpr int kMostParameters = 1 << 20;  // of which each is four inputs
// Elements a thread takes at once. Fixed, so that the norm, summed block by block, does not depend
// on the threads.
constexpr int64_t kBlock = 1 << 14;

struct Block {
  int parameter;
  int64_t begin, end;
};

// The rows of words that a batch lacks get no gradient, and their m and v decay until they are
// subnormal. There m would stay (0.9 times the smallest number rounds to itself) and slow down
// every further update.
inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f : x; }

MXReturnValue update(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                     const OpResource&) {
  const int parameters = integer(attributes, "parameters");
  const float beta1 = number(attributes, "beta1"), beta2 = number(attributes, "beta2");
  const float* hyper = data(inputs, 0);
  const float scale = hyper[0], epsilon = hyper[1], factor = hyper[2], max_norm = hyper[3];
  const float *lrs = data(inputs, 1), *decay = data(inputs, 2);

  std::vector<Block> blocks;
  for (int i = 0; i < parameters; ++i) {
    const int64_t size = (*inputs)[kHead + 4 * i].size();
    for (int64_t begin = 0; begin < size; begin += kBlock)
      blocks.push_back({i, begin, std::min(begin + kBlock, size)});
  }
  std::vector<double> squares(blocks.size());
#pragma omp parallel for schedule(static)
  for (size_t b = 0; b < blocks.size(); ++b) {
    const float* gradient = data(inputs, kHead + 4 * blocks[b].parameter + 1);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = blocks[b].begin; i < blocks[b].end; ++i) sum += gradient[i] * gradient[i];
    squares[b] = sum;
  }
  double total = 0;
  for (double square : squares) total += square;
  const float norm = std::sqrt(total) * factor;
  data(outputs, 0)[0] = norm;
  if (!std::isfinite(norm)) return mxnet::ext::MX_SUCCESS;

  const float rescale = factor / std::max(norm / max_norm, 1.0f);
#pragma omp parallel for schedule(static)
  for (size_t b = 0; b < blocks.size(); ++b) {
    const int first = kHead + 4 * blocks[b].parameter;
    float *weight = data(inputs, first), *m = data(inputs, first + 2), *v = data(inputs, first + 3);
    const float* gradient = data(inputs, first + 1);
    const float lr = lrs[blocks[b].parameter], wd = decay[blocks[b].parameter];
#pragma omp simd
    for (int64_t i = blocks[b].begin; i < blocks[b].end; ++i) {
      const float g = gradient[i] * rescale;
      const float mean = flushed(beta1 * m[i] + (1.0f - beta1) * g);
      const float variance = flushed(beta2 * v[i] + (1.0f - beta2) * g * g);
      m[i] = mean;
      v[i] = variance;
      weight[i] -= lr * (scale * mean / (std::sqrt(variance) + epsilon) + wd * weight[i]);
    }
  }
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  const int parameters = integer(attributes, "parameters");
  if (parameters < 1 || parameters > kMostParameters)
    return refuse("bert_adam", "there cannot be " + std::to_string(parameters) + " parameters");
  *inputs = kHead + 4 * parameters;
  *outputs = 1;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue mutated(const Attributes& attributes, std::vector<int>* inputs) {
  for (int i = 0; i < integer(attributes, "parameters"); ++i)
    for (int state : {0, 2, 3}) inputs->push_back(kHead + 4 * i + state);
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes& attributes, Shapes* in, Shapes* out) {
  const unsigned parameters = integer(attributes, "parameters");
  (*in)[0] = {4};
  (*in)[1] = (*in)[2] = {parameters};
  for (unsigned i = 0; i < parameters; ++i) {
    const size_t weight = kHead + 4 * i;
    for (size_t state : {1, 2, 3}) (*in)[weight + state] = (*in)[weight];
  }
  (*out)[0] = {1};
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_adam)
    .setForward(update, "cpu")
    .setParseAttrs(parse)
    .setMutateInputs(mutated)
    .setInferType(infer_type<>)
    .setInferShape(infer_shape);

}  // namespace bert
