// out = dropout(LayerNorm(word + token type + position embeddings)) on packed rows.
//
// Inputs: word [vocabulary, units], token_type [types, units], position [positions, units],
// gamma [units], beta [units], input_ids [tokens] int32, token_types [tokens] int32,
// offsets [pairs + 1] int32, dropout [2] int32. Attributes: site, eps.
#include "common.h"

namespace bert {
namespace {

struct Inputs {
  const float *word, *type, *position, *gamma, *beta;
  const int32_t *ids, *types, *offsets;
  int64_t tokens, pairs;
  int units;
  float eps;
  Dropout dropout;

  Inputs(const Attributes& attributes, Tensors* in, int first)
      : word(data(in, first)),
        type(data(in, first + 1)),
        position(data(in, first + 2)),
        gamma(data(in, first + 3)),
        beta(data(in, first + 4)),
        ids(data<int32_t>(in, first + 5)),
        types(data<int32_t>(in, first + 6)),
        offsets(data<int32_t>(in, first + 7)),
        tokens((*in)[first + 5].shape[0]),
        pairs((*in)[first + 7].shape[0] - 1),
        units((*in)[first].shape[1]),
        eps(std::stof(attributes.at("eps"))),
        dropout(data<int32_t>(in, first + 8), integer(attributes, "site")) {}

  std::vector<int> positions() const {
    std::vector<int> result(tokens);
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int row = offsets[pair]; row < offsets[pair + 1]; ++row)
        result[row] = row - offsets[pair];
    return result;
  }

  // n = the row's normalised sum; returns 1 / standard deviation.
  float normalise(int64_t row, int place, float* n) const {
    const float* w = word + static_cast<int64_t>(ids[row]) * units;
    const float* t = type + static_cast<int64_t>(types[row]) * units;
    const float* p = position + static_cast<int64_t>(place) * units;
    float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
    for (int c = 0; c < units; ++c) {
      n[c] = w[c] + t[c] + p[c];
      mean += n[c];
    }
    mean /= units;
#pragma omp simd reduction(+ : variance)
    for (int c = 0; c < units; ++c) {
      n[c] -= mean;
      variance += n[c] * n[c];
    }
    const float rstd = 1.0f / std::sqrt(variance / units + eps);
#pragma omp simd
    for (int c = 0; c < units; ++c) n[c] *= rstd;
    return rstd;
  }
};

MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const Inputs in(attributes, inputs, 0);
  const std::vector<int> positions = in.positions();
  float* out = data(outputs, 0);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < in.tokens; ++row) {
    float* y = out + row * in.units;
    in.normalise(row, positions[row], y);
    const uint32_t key = in.dropout.block_key(row);
    if (in.dropout.active()) {
#pragma omp simd
      for (int c = 0; c < in.units; ++c)
        y[c] = (y[c] * in.gamma[c] + in.beta[c]) * in.dropout.factor(key, c);
    } else {
#pragma omp simd
      for (int c = 0; c < in.units; ++c) y[c] = y[c] * in.gamma[c] + in.beta[c];
    }
  }
  return mxnet::ext::MX_SUCCESS;
}

// Adds rows of `from` [rows, units] to the rows of `table` that `index` names. Each thread has its
// own columns, so that no two write the same number, and the order is that of the rows.
template <typename Index>
void scatter(const std::vector<float>& from, int64_t rows, int units, const Index& index,
             int64_t table_rows, float* table) {
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < table_rows; ++row)
      std::memset(table + row * units, 0, units * sizeof(float));
    const Range columns(units, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t row = 0; row < rows; ++row) {
      float* to = table + static_cast<int64_t>(index[row]) * units;
      const float* d = &from[row * units];
#pragma omp simd
      for (int c = columns.begin; c < columns.end; ++c) to[c] += d[c];
    }
  }
}

MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const Inputs in(attributes, inputs, 1);
  const std::vector<int> positions = in.positions();
  const float* dy = data(inputs, 0);
  const int units = in.units, threads = omp_get_max_threads();
  std::vector<float> dsum(in.tokens * units), dgamma(threads * units), dbeta(threads * units);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const Range range(in.tokens, thread, threads);
    std::vector<float> n(units), g(units);
    float *my_gamma = &dgamma[thread * units], *my_beta = &dbeta[thread * units];
    for (int64_t row = range.begin; row < range.end; ++row) {
      const float rstd = in.normalise(row, positions[row], n.data());
      const uint32_t key = in.dropout.block_key(row);
      const float* d = dy + row * units;
      float* to = &dsum[row * units];
      float mean_g = 0, mean_gn = 0;
#pragma omp simd reduction(+ : mean_g, mean_gn)
      for (int c = 0; c < units; ++c) {
        const float dout = in.dropout.active() ? d[c] * in.dropout.factor(key, c) : d[c];
        g[c] = dout * in.gamma[c];
        mean_g += g[c];
        mean_gn += g[c] * n[c];
        my_gamma[c] += dout * n[c];
        my_beta[c] += dout;
      }
      mean_g /= units;
      mean_gn /= units;
#pragma omp simd
      for (int c = 0; c < units; ++c) to[c] = rstd * (g[c] - mean_g - n[c] * mean_gn);
    }
  }
  scatter(dsum, in.tokens, units, in.ids, (*inputs)[1].shape[0], data(outputs, 0));
  scatter(dsum, in.tokens, units, in.types, (*inputs)[2].shape[0], data(outputs, 1));
  scatter(dsum, in.tokens, units, positions, (*inputs)[3].shape[0], data(outputs, 2));
  add_partial_sums(dgamma, threads, units, data(outputs, 3));
  add_partial_sums(dbeta, threads, units, data(outputs, 4));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const unsigned units = (*in)[0][1];
  (*in)[3] = (*in)[4] = {units};
  (*in)[6] = (*in)[5];
  (*in)[8] = {2};
  (*out)[0] = {(*in)[5][0], units};
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_embedding)
    .setForward(forward, "cpu")
    .setBackward(backward, "cpu")
    .setParseAttrs(one_output<9>)
    .setInferType(infer_type<5, 6, 7, 8>)
    .setInferShape(infer_shape);

}  // namespace bert
