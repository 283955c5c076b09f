// out = dropout(LayerNorm(word + token type + position embeddings)) on packed rows.
//
// Inputs: word [vocabulary, units], token_type [types, units], position [positions, units],
// gamma [units], beta [units], input_ids [tokens] int32, token_types [tokens] int32,
// offsets [pairs + 1] int32, dropout [2] int32. Attributes: site, eps.
#include "layer_norm.h"

namespace bert {
namespace {

struct Inputs {
  const float *word, *type, *position, *gamma, *beta;
  const int32_t *ids, *types, *offsets;
  int64_t words, kinds, places, tokens, pairs;
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
        words((*in)[first].shape[0]),
        kinds((*in)[first + 1].shape[0]),
        places((*in)[first + 2].shape[0]),
        tokens((*in)[first + 5].shape[0]),
        pairs((*in)[first + 7].shape[0] - 1),
        units((*in)[first].shape[1]),
        eps(number(attributes, "eps")),
        dropout(data<int32_t>(in, first + 8), integer(attributes, "site")) {}

  // A wrong index would read, and in backward write, somebody else's memory. MXNet runs backward
  // even where forward has failed, so both ask.
  const char* find_complaint() const {
    if (offsets[0] != 0 || offsets[pairs] != tokens)
      return "offsets do not begin with 0 and end with the number of tokens";
    for (int64_t pair = 0; pair < pairs; ++pair)
      if (offsets[pair + 1] < offsets[pair] || offsets[pair + 1] - offsets[pair] > places)
        return "a pair has more tokens than there are positions";
    for (int64_t row = 0; row < tokens; ++row)
      if (ids[row] < 0 || ids[row] >= words || types[row] < 0 || types[row] >= kinds)
        return "a token id or type is not in its table";
    return nullptr;
  }

  std::vector<int32_t> positions() const {
    std::vector<int32_t> result(tokens);
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int row = offsets[pair]; row < offsets[pair + 1]; ++row)
        result[row] = row - offsets[pair];
    return result;
  }

  // n = the row's normalised sum; returns 1 / deviation.
  float row(int64_t token, int64_t place, float* n) const {
    const float* w = word + static_cast<int64_t>(ids[token]) * units;
    const float* t = type + static_cast<int64_t>(types[token]) * units;
    const float* p = position + place * units;
#pragma omp simd
    for (int c = 0; c < units; ++c) n[c] = w[c] + t[c] + p[c];
    return normalise(n, units, eps);
  }
};

MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const Inputs in(attributes, inputs, 0);
  if (const char* complaint = in.find_complaint()) return refuse("bert_embedding", complaint);
  const std::vector<int32_t> positions = in.positions();
  const int units = in.units;
  const float *gamma = in.gamma, *beta = in.beta;
  float* out = data(outputs, 0);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < in.tokens; ++row) {
    float* y = out + row * units;
    in.row(row, positions[row], y);
    in.dropout.with_mask(row, [=](auto mask) {
#pragma omp simd
      for (int c = 0; c < units; ++c) y[c] = (y[c] * gamma[c] + beta[c]) * mask(c);
    });
  }
  return mxnet::ext::MX_SUCCESS;
}

// table = 0, then rows of `from` [rows, units] are added to the table's rows that `index` names.
// Each thread has its own columns, so that no two write the same number, and the order is that of
// the rows.
void scatter(const std::vector<float>& from, int64_t rows, int units, const int32_t* index,
             int64_t table_rows, float* table) {
#pragma omp parallel
  {
    // One call for all of it: the C library then writes past the caches, which the word table
    // does not fit.
    const Share zeros(table_rows * units);
    std::memset(table + zeros.begin, 0, (zeros.end - zeros.begin) * sizeof(float));
#pragma omp barrier
    const Share columns(units);
    const int begin = columns.begin, end = columns.end;
    for (int64_t row = 0; row < rows; ++row) {
      float* to = table + static_cast<int64_t>(index[row]) * units;
      const float* d = &from[row * units];
#pragma omp simd
      for (int c = begin; c < end; ++c) to[c] += d[c];
    }
  }
}

MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const Inputs in(attributes, inputs, 1);
  if (const char* complaint = in.find_complaint()) return refuse("bert_embedding", complaint);
  const std::vector<int32_t> positions = in.positions();
  const float* dy = data(inputs, 0);
  const int units = in.units;
  std::vector<float> dsum(in.tokens * units);
  ColumnSums dgamma(units), dbeta(units);
#pragma omp parallel
  {
    const Share share(in.tokens);
    std::vector<float> undropped(units);
    float* dout = undropped.data();
    for (int64_t row = share.begin; row < share.end; ++row) {
      const float* d = dy + row * units;
      in.dropout.with_mask(row, [=](auto mask) {
#pragma omp simd
        for (int c = 0; c < units; ++c) dout[c] = d[c] * mask(c);
      });
      float* n = &dsum[row * units];
      const float rstd = in.row(row, positions[row], n);
      normalise_backward(dout, in.gamma, rstd, units, n, dgamma.mine(), dbeta.mine());
    }
  }
  scatter(dsum, in.tokens, units, in.ids, in.words, data(outputs, 0));
  scatter(dsum, in.tokens, units, in.types, in.kinds, data(outputs, 1));
  scatter(dsum, in.tokens, units, positions.data(), in.places, data(outputs, 2));
  dgamma.store(data(outputs, 3));
  dbeta.store(data(outputs, 4));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const std::string wrong = wrong_dimensions(*in, {2, 2, 2, 1, 1, 1, 1, 1, 1});
  if (!wrong.empty()) return refuse("bert_embedding", wrong);
  const unsigned units = (*in)[0][1];
  (*in)[1] = {(*in)[1][0], units};
  (*in)[2] = {(*in)[2][0], units};
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
