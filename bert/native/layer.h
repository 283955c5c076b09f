// What the forward and the backward pass of an encoder layer in training share: see layer.cc.
//
// A block of rows goes through the layer (all but the attention, which needs the rows of a pair)
// while it is in a core's second cache; weights come from the third. What a product reads is
// written as the numbers that are multiplied (float32 or bfloat16); everything else is float32.
#pragma once

#include "attention.h"
#include "memory.h"
#include "products.h"

namespace bert {

struct Dense {
  const float *weight, *bias;
};
struct Norm {
  const float *gamma, *beta;
};

struct LayerInputs {
  int64_t tokens, pairs, units, hidden_units;
  int heads, site, activation;
  float eps;
  bool cls;  // only the first token of each pair leaves the layer
  const float* hidden;
  const int32_t *offsets, *dropout;
  Dense query, key, value, projection;
  Norm norm;
  Dense inner, outer;
  Norm outer_norm;

  int64_t rows() const { return cls ? pairs : tokens; }  // that leave the layer
  const float* residual(int64_t row) const { return hidden + (cls ? offsets[row] : row) * units; }
  Dropout attention_dropout() const { return Dropout(dropout, site); }
  Dropout projection_dropout() const { return Dropout(dropout, site + 1); }
  Dropout outer_dropout() const { return Dropout(dropout, site + 2); }
};

// Widths in memory of the layer's rows: `wide`, and between the feed-forward layers `hidden_wide`.
struct LayerSizes {
  int64_t tokens = 0, rows = 0, units = 0, hidden = 0, wide = 0, hidden_wide = 0;
  bool cls = false;

  LayerSizes() = default;
  explicit LayerSizes(const LayerInputs& in)
      : tokens(in.tokens),
        rows(in.rows()),
        units(in.units),
        hidden(in.hidden_units),
        wide(whole(units)),
        hidden_wide(whole(hidden)),
        cls(in.cls) {}

  int64_t q_stride() const { return cls ? wide : 3 * wide; }
  int64_t kv_stride() const { return cls ? 2 * wide : 3 * wide; }
};

// How many blocks rows are divided into: about as many for each thread.
inline int64_t blocks_of(int64_t rows) {
  const int64_t threads = omp_get_max_threads();
  return divide_up(divide_up(rows, kBlockRows), threads) * threads;
}

// Rows of queries, keys and values, or of their gradients: one array, with cls two.
template <typename Number>
struct Projected {
  Number *q, *k, *v;

  void divide(Parts* parts, const LayerSizes& s) {
    q = parts->take<Number>(s.rows * s.q_stride());
    k = s.cls ? parts->take<Number>(s.tokens * s.kv_stride()) : q ? q + s.wide : nullptr;
    v = k ? k + s.wide : nullptr;
  }
};

template <typename Type, int kWide>
void divide(Parts* parts, int64_t rows, int64_t columns, Factor<Type, kWide>* factor) {
  *factor = {parts->take<typename Type::Number>(packed_size<Type>(rows, columns)),
             steps_of<Type>(rows)};
}

// What forward leaves for backward: rows, and the right factors of the weights' gradients.
template <typename Type>
struct LayerKept : LayerSizes {
  using Number = typename Type::Number;
  Projected<Number> projected = {};
  Number* probabilities;
  Number *slope, *n, *outer_n;  // of the activation; LayerNorm's rows before gamma and beta
  float *rstd, *outer_rstd;
  RightFactor<Type> hidden_factor, first_factor, context, attended, between;
  int64_t all_probabilities = 0;

  LayerKept() = default;
  explicit LayerKept(const LayerInputs& in)
      : LayerSizes(in), all_probabilities(attention_of(in, {}).places().back()) {}

  void divide(Parts* parts) {
    projected.divide(parts, *this);
    probabilities = parts->take<Number>(all_probabilities);
    slope = parts->take<Number>(rows * hidden_wide);
    n = parts->take<Number>(rows * wide);
    outer_n = parts->take<Number>(rows * wide);
    rstd = parts->take<float>(rows);
    outer_rstd = parts->take<float>(rows);
    bert::divide(parts, tokens, wide, &hidden_factor);
    bert::divide(parts, cls ? rows : 0, wide, &first_factor);
    bert::divide(parts, rows, wide, &context);
    bert::divide(parts, rows, wide, &attended);
    bert::divide(parts, rows, hidden_wide, &between);
  }

  // `no_bias`: zeros [3 units], as the projections have theirs.
  Batch<Number> attention(const LayerInputs& in, const float* no_bias) const {
    return attention_of(in, projected, no_bias);
  }

  static Batch<Number> attention_of(const LayerInputs& in, const Projected<Number>& p,
                                    const float* no_bias = nullptr) {
    const LayerSizes s(in);
    return {p.q,          p.k,           p.v,      no_bias,   in.offsets,
            s.q_stride(), s.kv_stride(), in.pairs, in.tokens, static_cast<int>(in.units),
            in.heads,     in.cls,        in.attention_dropout()};
  }
};

// Rows in blocks of whole tiles, each of which begins with a step.
template <typename Type>
Share block_of(int64_t rows, int64_t index, int64_t count) {
  static_assert(Type::kRows % Type::kStep == 0);
  Share block(divide_up(rows, Type::kRows), index, count);
  block.begin *= Type::kRows;
  block.end = std::min(rows, block.end * Type::kRows);
  return block;
}

// to [wide] = from [units], filled up with zeros.
template <typename Type>
void store_row(const float* from, int64_t units, int64_t wide, typename Type::Number* to) {
  const int64_t vectors = units / kWidth * kWidth;
  Type::store(from, vectors, to);
  for (int64_t c = vectors; c < wide; ++c) to[c] = c < units ? Type::number(from[c]) : 0;
}

// Calls work(column) for those columns of a panel that a row of `count` more has.
template <typename Work>
void for_columns(int64_t count, const Work& work) {
  if (count >= kPanel) {
#pragma omp simd
    for (int c = 0; c < kPanel; ++c) work(c);
  } else {
    for (int c = 0; c < count; ++c) work(c);
  }
}

// The thread's part of arrays that have one for each.
template <typename T>
T* mine(T* arrays, int64_t size) {
  return arrays + omp_get_thread_num() * size;
}

}  // namespace bert
