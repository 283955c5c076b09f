// The forward pass of an encoder layer in training: see layer.cc.
#pragma once

#include "activations.h"
#include "layer.h"
#include "layer_norm.h"

namespace bert {

template <typename Type>
class LayerForward : LayerSizes {
  using Number = typename Type::Number;

 public:
  LayerForward(const LayerInputs& in, const LayerKept<Type>& kept, float* out)
      : LayerSizes(in), in_(in), kept_(kept), out_(out), no_bias_(3 * in.units) {}

  void divide(Parts* parts) {
    const int64_t in_block = int64_t{omp_get_max_threads()} * kBlockRows;
    projections_ = parts->take<Number>(3 * panels_size(wide, units));
    projection_ = parts->take<Number>(panels_size(wide, units));
    inner_ = parts->take<Number>(panels_size(hidden_wide, units));
    outer_ = parts->take<Number>(panels_size(wide, hidden));
    context_ = parts->take<Number>(rows * wide);
    x_ = parts->take<Number>(in_block * wide);
    between_ = parts->take<Number>(in_block * hidden_wide);
    attended_ = parts->take<float>(in_block * wide);
  }

  void run() {
    const int64_t panels = (5 * wide + hidden_wide) / kPanel;
    const int64_t all_blocks = blocks_of(tokens), blocks = blocks_of(rows);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 4)
      for (int64_t panel = 0; panel < panels; ++panel) pack_weights(panel);
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < all_blocks; ++i) project(block_of<Type>(tokens, i, all_blocks));
      if (cls) {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < blocks; ++i) project_first(block_of<Type>(rows, i, blocks));
      }
      attend(kept_.attention(in_, no_bias_.data()), omp_get_thread_num(), omp_get_num_threads(),
             context_, wide, kept_.probabilities);
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < blocks; ++i) finish(block_of<Type>(rows, i, blocks));
    }
  }

 private:
  static int64_t panels_size(int64_t wide, int64_t depth) {
    return wide * steps_of<Type>(depth) * Type::kStep;
  }

  // Of all weights, one after the other.
  void pack_weights(int64_t panel) {
    const int64_t narrow = wide / kPanel, high = hidden_wide / kPanel;
    const auto pack = [&](const Dense& dense, int64_t outputs, int64_t depth, Number* to) {
      pack_transposed<Type>(dense.weight, outputs, depth, panel,
                            to + panel * panels_size(kPanel, depth));
    };
    const Dense* projections[] = {&in_.query, &in_.key, &in_.value};
    for (int i = 0; i < 3; ++i, panel -= narrow)
      if (panel < narrow)
        return pack(*projections[i], units, units, projections_ + i * panels_size(wide, units));
    if (panel < narrow) return pack(in_.projection, units, units, projection_);
    panel -= narrow;
    if (panel < high) return pack(in_.inner, hidden, units, inner_);
    panel -= high;
    pack(in_.outer, units, hidden, outer_);
  }

  // Projections of some of the queries, keys and values: the first of them, and how many.
  void multiply(const Number* x, int64_t count, int first, int projections, Number* to,
                int64_t stride) {
    const Dense* all[] = {&in_.query, &in_.key, &in_.value};
    multiply_rows<Type>(x, wide, count, projections_ + first * panels_size(wide, units),
                        projections * wide / kPanel, steps_of<Type>(units),
                        [=](int64_t row, int64_t column) {
                          fetch_panel<true>(to + row * stride + column);
                        },
                        [&](int64_t row, int height, int64_t column, float* sums) {
                          const int64_t own = column % wide;
                          const float* bias = all[first + column / wide]->bias + own;
                          for (int i = 0; i < height; ++i, sums += kPanel) {
                            for_columns(units - own, [=](int c) { sums[c] += bias[c]; });
                            Type::store(sums, kPanel, to + (row + i) * stride + column);
                          }
                        });
  }

  void project(const Share& block) {
    Number* x = mine(x_, kBlockRows * wide);
    const int64_t count = block.end - block.begin;
    for (int64_t i = 0; i < count; ++i)
      store_row<Type>(in_.hidden + (block.begin + i) * units, units, wide, x + i * wide);
    kept_.hidden_factor.pack(x, wide, block.begin, count, wide);
    Number* to = (cls ? kept_.projected.k : kept_.projected.q) + block.begin * kv_stride();
    multiply(x, count, cls ? 1 : 0, cls ? 2 : 3, to, kv_stride());
  }

  // The queries of the first tokens.
  void project_first(const Share& block) {
    Number* x = mine(x_, kBlockRows * wide);
    const int64_t count = block.end - block.begin;
    for (int64_t i = 0; i < count; ++i)
      store_row<Type>(in_.residual(block.begin + i), units, wide, x + i * wide);
    kept_.first_factor.pack(x, wide, block.begin, count, wide);
    multiply(x, count, 0, 1, kept_.projected.q + block.begin * q_stride(), q_stride());
  }

  // Everything behind the attention.
  void finish(const Share& block) {
    const int64_t count = block.end - block.begin;
    Number *x = mine(x_, kBlockRows * wide), *between = mine(between_, kBlockRows * hidden_wide);
    float* attended = mine(attended_, kBlockRows * wide);
    Number* context = context_ + block.begin * wide;
    for (int64_t i = 0; i < count; ++i)
      std::fill_n(context + i * wide + units, wide - units, Number{0});
    const Dropout dropout = in_.projection_dropout(), outer_dropout = in_.outer_dropout();
    multiply_rows<Type>(context, wide, count, projection_, wide / kPanel, steps_of<Type>(units),
                        [&](int64_t row, int64_t column) {
                          fetch_panel<false>(in_.residual(block.begin + row) + column);
                        },
                        [&](int64_t row, int height, int64_t column, const float* sums) {
                          for (int64_t i = row; i < row + height; ++i, sums += kPanel)
                            add(sums, in_.projection.bias, in_.residual(block.begin + i),
                                block.begin + i, column, dropout, attended + i * wide);
                        });
    kept_.context.pack(context, wide, block.begin, count, wide);
    for (int64_t i = 0; i < count; ++i) {
      float* row = attended + i * wide;
      normalise_row(in_.norm, block.begin + i, kept_.n, kept_.rstd, row);
      store_row<Type>(row, units, wide, x + i * wide);
    }
    kept_.attended.pack(x, wide, block.begin, count, wide);
    with_activation<!std::is_same<Number, float>::value>(in_.activation, [&](auto activation) {
      activate<decltype(activation)>(x, count, kept_.slope + block.begin * hidden_wide, between);
    });
    kept_.between.pack(between, hidden_wide, block.begin, count, hidden_wide);
    float* out = out_ + block.begin * units;
    multiply_rows<Type>(between, hidden_wide, count, outer_, wide / kPanel, steps_of<Type>(hidden),
                        [=](int64_t row, int64_t column) {
                          fetch_panel<true>(out + row * units + column);
                        },
                        [&](int64_t row, int height, int64_t column, const float* sums) {
                          for (int64_t i = row; i < row + height; ++i, sums += kPanel)
                            add(sums, in_.outer.bias, attended + i * wide, block.begin + i, column,
                                outer_dropout, out + i * units);
                        });
    for (int64_t i = block.begin; i < block.end; ++i)
      normalise_row(in_.outer_norm, i, kept_.outer_n, kept_.outer_rstd, out_ + i * units);
  }

  // to = residual + dropout(sums + bias), for a panel's columns of a row
  void add(const float* sums, const float* bias, const float* residual, int64_t row, int64_t column,
           const Dropout& dropout, float* to) const {
    bias += column, residual += column, to += column;
    dropout.with_mask(row, [=](auto mask) {
      for_columns(units - column, [=](int c) {
        to[c] = residual[c] + (sums[c] + bias[c]) * mask(static_cast<uint32_t>(column + c));
      });
    });
  }

  void normalise_row(const Norm& norm, int64_t row, Number* n, float* rstd, float* x) const {
    rstd[row] = normalise(x, units, in_.eps);
    store_row<Type>(x, units, wide, n + row * wide);
    const float *gamma = norm.gamma, *beta = norm.beta;
    const int columns = units;
#pragma omp simd
    for (int c = 0; c < columns; ++c) x[c] = x[c] * gamma[c] + beta[c];
  }

  template <typename Activation>
  void activate(const Number* x, int64_t count, Number* slope, Number* between) const {
    multiply_rows<Type>(
        x, wide, count, inner_, hidden_wide / kPanel, steps_of<Type>(units),
        [=](int64_t row, int64_t column) {
          fetch_panel<true>(slope + row * hidden_wide + column);
        },
        [&](int64_t row, int height, int64_t column, float* sums) {
          const float* bias = in_.inner.bias + column;
          alignas(64) float slopes[kPanel] = {};
          float* derivatives = slopes;
          for (int i = 0; i < height; ++i, sums += kPanel) {
            for_columns(hidden - column, [=](int c) {
              const float z = sums[c] + bias[c];
              sums[c] = Activation::value(z);
              derivatives[c] = Activation::derivative(z);
            });
            const int64_t to = (row + i) * hidden_wide + column;
            Type::store(sums, kPanel, between + to);
            Type::store(slopes, kPanel, slope + to);
          }
        });
  }

  const LayerInputs& in_;
  const LayerKept<Type>& kept_;
  float* out_;
  std::vector<float> no_bias_;
  Number *projections_, *projection_, *inner_, *outer_;  // weights
  Number* context_;
  Number *x_, *between_;  // of each thread
  float* attended_;
};

}  // namespace bert
