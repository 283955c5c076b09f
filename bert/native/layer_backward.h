// The backward pass of an encoder layer in training: see layer.cc.
#pragma once

#include "layer.h"
#include "layer_norm.h"

namespace bert {

// Of all inputs but the integers.
struct LayerGradients {
  float *hidden, *query, *key, *value, *projection_biases[3];
  float *projection, *projection_bias, *gamma, *beta;
  float *inner, *inner_bias, *outer, *outer_bias, *outer_gamma, *outer_beta;
};

template <typename Type>
class LayerBackward : LayerSizes {
  using Number = typename Type::Number;

 public:
  LayerBackward(const LayerInputs& in, const LayerKept<Type>& kept, const float* dout,
                const LayerGradients& to)
      : LayerSizes(in),
        in_(in),
        kept_(kept),
        dout_(dout),
        to_(to),
        no_bias_(3 * in.units),
        projection_sums_(3 * in.units) {}

  void divide(Parts* parts) {
    const int64_t in_block = int64_t{omp_get_max_threads()} * kBlockRows;
    projections_ = parts->take<Number>(wide * kv_stride());
    query_ = parts->take<Number>(cls ? wide * wide : 0);
    projection_ = parts->take<Number>(wide * wide);
    inner_ = parts->take<Number>(wide * hidden_wide);
    outer_ = parts->take<Number>(hidden_wide * wide);
    bert::divide(parts, cls ? rows : 0, wide, &dfirst_);
    bert::divide(parts, tokens, kv_stride(), &dprojections_);
    bert::divide(parts, rows, wide, &dprojection_);
    bert::divide(parts, rows, hidden_wide, &dinner_);
    bert::divide(parts, rows, wide, &douter_);
    dprojected_.divide(parts, *this);
    dcontext_ = parts->take<Number>(rows * wide);
    dsum_ = parts->take<float>(rows * wide);
    sums_ = parts->take<float>(blocks_of(rows) * sums_size());
    dx_ = parts->take<Number>(in_block * wide);
    dbetween_ = parts->take<Number>(in_block * hidden_wide);
    outer_dsum_ = parts->take<float>(in_block * wide);
    dattended_ = parts->take<float>(in_block * wide);
    dropped_ = parts->take<float>(omp_get_max_threads() * wide);
  }

  void run() {
    const int64_t panels = ((cls ? 4 : 3) * wide + hidden_wide) / kPanel;
    const int64_t all_blocks = blocks_of(tokens), blocks = blocks_of(rows);
    const std::vector<WeightGradient<Type>> products = weight_gradients();
    int64_t items = 0;
    for (const auto& product : products) items += product.items();
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 4)
      for (int64_t panel = 0; panel < panels; ++panel) pack_weights(panel);
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < blocks; ++i) begin(block_of<Type>(rows, i, blocks), i);
      const Projected<Number>& d = dprojected_;
      attend_backward(kept_.attention(in_, no_bias_.data()), omp_get_thread_num(),
                      omp_get_num_threads(), dcontext_, wide, d.q, d.k, d.v,
                      projection_sums_.mine(), kept_.probabilities);
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < all_blocks; ++i) finish(block_of<Type>(tokens, i, all_blocks));
      if (cls) {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < blocks; ++i) finish_first(block_of<Type>(rows, i, blocks));
      }
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t i = 0; i < items; ++i) {
        int64_t item = i;
        const WeightGradient<Type>* product = products.data();
        for (; item >= product->items(); ++product) item -= product->items();
        product->compute(item);
      }
    }
    add_up();
  }

 private:
  std::vector<WeightGradient<Type>> weight_gradients() const {
    const RightFactor<Type>& first = cls ? kept_.first_factor : kept_.hidden_factor;
    const LeftFactor<Type> dkey = dprojections_.from(cls ? 0 : wide);
    return {{douter_, kept_.between, to_.outer, units, hidden},
            {dinner_, kept_.attended, to_.inner, hidden, units},
            {dprojection_, kept_.context, to_.projection, units, units},
            {cls ? dfirst_ : dprojections_, first, to_.query, units, units},
            {dkey, kept_.hidden_factor, to_.key, units, units},
            {dkey.from(wide), kept_.hidden_factor, to_.value, units, units}};
  }

  // Of all weights, one after the other.
  void pack_weights(int64_t panel) {
    const int64_t narrow = wide / kPanel, high = hidden_wide / kPanel;
    const auto pack = [&](const Dense& dense, int64_t outputs, int64_t inputs, int64_t depth,
                          Number* to) {
      pack_straight<Type>(dense.weight, outputs, inputs, panel, depth / Type::kStep,
                          to + panel * kPanel * depth);
    };
    if (panel < high) return pack(in_.outer, units, hidden, wide, outer_);
    panel -= high;
    if (panel < narrow) return pack(in_.inner, hidden, units, hidden_wide, inner_);
    panel -= narrow;
    if (panel < narrow) return pack(in_.projection, units, units, wide, projection_);
    panel -= narrow;
    if (panel >= narrow) {
      panel -= narrow;
      return pack(in_.query, units, units, wide, query_);
    }
    // What is multiplied with the gradients of queries, keys and values is one panel.
    Number* to = projections_ + panel * kPanel * kv_stride();
    for (const Dense* dense : {&in_.query, &in_.key, &in_.value}) {
      if (cls && dense == &in_.query) continue;
      pack_straight<Type>(dense->weight, units, units, panel, wide / Type::kStep, to);
      to += kPanel * wide;
    }
  }

  // Sums over a block's rows.
  struct Sums {
    float *outer_gamma, *outer_beta, *outer_bias, *gamma, *beta, *bias, *inner_bias;
  };
  int64_t sums_size() const { return 6 * wide + hidden_wide; }
  Sums sums_of(int64_t block) const {
    float* s = sums_ + block * sums_size();
    return {s, s + wide, s + 2 * wide, s + 3 * wide, s + 4 * wide, s + 5 * wide, s + 6 * wide};
  }

  // From the output to the context.
  void begin(const Share& block, int64_t index) {
    const int64_t count = block.end - block.begin;
    Number* dx = mine(dx_, kBlockRows * wide);
    Number* dbetween = mine(dbetween_, kBlockRows * hidden_wide);
    float *outer_dsum = mine(outer_dsum_, kBlockRows * wide);
    float *dattended = mine(dattended_, kBlockRows * wide), *dsum = dsum_ + block.begin * wide;
    const Sums sums = sums_of(index);
    std::fill_n(sums.outer_gamma, sums_size(), 0.0f);

    const Dropout dropout = in_.projection_dropout(), outer_dropout = in_.outer_dropout();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = block.begin + i;
      normalise_row(dout_ + row * units, in_.outer_norm.gamma, row, kept_.outer_n, kept_.outer_rstd,
                    outer_dropout, outer_dsum + i * wide, dx + i * wide, sums.outer_gamma,
                    sums.outer_beta, sums.outer_bias);
    }
    douter_.pack(dx, wide, block.begin, count, wide);
    const Number* slope = kept_.slope + block.begin * hidden_wide;
    multiply_rows<Type>(dx, wide, count, outer_, hidden_wide / kPanel, wide / Type::kStep,
                        [=](int64_t row, int64_t column) {
                          fetch_panel<false>(slope + row * hidden_wide + column);
                        },
                        [&](int64_t row, int height, int64_t column, float* products) {
                          alignas(64) float sum[kPanel] = {};
                          for (int64_t i = row; i < row + height; ++i, products += kPanel) {
                            const int64_t at = i * hidden_wide + column;
#pragma omp simd
                            for (int c = 0; c < kPanel; ++c) {
                              products[c] *= Type::value(slope[at + c]);
                              sum[c] += products[c];
                            }
                            Type::store(products, kPanel, dbetween + at);
                          }
                          for (int c = 0; c < kPanel; ++c) sums.inner_bias[column + c] += sum[c];
                        });
    dinner_.pack(dbetween, hidden_wide, block.begin, count, hidden_wide);
    multiply_rows<Type>(dbetween, hidden_wide, count, inner_, wide / kPanel,
                        hidden_wide / Type::kStep, FetchNothing(),
                        [=](int64_t row, int height, int64_t column, const float* products) {
                          for (int64_t i = row; i < row + height; ++i, products += kPanel) {
                            const int64_t at = i * wide + column;
#pragma omp simd
                            for (int c = 0; c < kPanel; ++c)
                              dattended[at + c] = products[c] + outer_dsum[at + c];
                          }
                        });
    for (int64_t i = 0; i < count; ++i)
      normalise_row(dattended + i * wide, in_.norm.gamma, block.begin + i, kept_.n, kept_.rstd,
                    dropout, dsum + i * wide, dx + i * wide, sums.gamma, sums.beta, sums.bias);
    dprojection_.pack(dx, wide, block.begin, count, wide);
    Number* dcontext = dcontext_ + block.begin * wide;
    multiply_rows<Type>(dx, wide, count, projection_, wide / kPanel, wide / Type::kStep,
                        [=](int64_t row, int64_t column) {
                          fetch_panel<true>(dcontext + row * wide + column);
                        },
                        [=](int64_t row, int height, int64_t column, const float* products) {
                          for (int64_t i = row; i < row + height; ++i, products += kPanel)
                            Type::store(products, kPanel, dcontext + i * wide + column);
                        });
    if (wide == units) return;
    const Projected<Number>& d = dprojected_;  // attention writes the columns that there are
    for (int64_t row = block.begin; row < block.end; ++row) clear(d.q + row * q_stride());
    const int64_t begin = cls ? in_.offsets[block.begin] : block.begin;
    const int64_t end = cls ? in_.offsets[block.end] : block.end;
    for (int64_t row = begin; row < end; ++row)
      for (Number* from : {d.k, d.v}) clear(from + row * kv_stride());
  }

  void clear(Number* row) const { std::fill(row + units, row + wide, Number{0}); }

  // dsum = the gradient for LayerNorm's input, dx = the same behind the dropout; adds to the sums.
  void normalise_row(const float* dy, const float* gamma, int64_t row, const Number* all_n,
                     const float* rstd, const Dropout& dropout, float* dsum, Number* dx,
                     float* dgamma, float* dbeta, float* dbias) const {
    const int columns = units;
    const Number* n = all_n + row * wide;
#pragma omp simd
    for (int c = 0; c < columns; ++c) dsum[c] = Type::value(n[c]);
    normalise_backward(dy, gamma, rstd[row], units, dsum, dgamma, dbeta);
    std::fill(dsum + units, dsum + wide, 0.0f);
    float* dropped = mine(dropped_, wide);
    dropout.with_mask(row, [=](auto mask) {
#pragma omp simd
      for (int c = 0; c < columns; ++c) {
        dropped[c] = dsum[c] * mask(c);
        dbias[c] += dropped[c];
      }
    });
    store_row<Type>(dropped, units, wide, dx);
  }

  // From the projections to the layer's input.
  void finish(const Share& block) {
    const int64_t count = block.end - block.begin;
    const Number* dx = (cls ? dprojected_.k : dprojected_.q) + block.begin * kv_stride();
    const float* dsum = cls ? nullptr : dsum_ + block.begin * wide;
    float* to = to_.hidden + block.begin * units;
    multiply_rows<Type>(dx, kv_stride(), count, projections_, wide / kPanel,
                        kv_stride() / Type::kStep,
                        [=](int64_t row, int64_t column) {
                          if (dsum) fetch_panel<false>(dsum + row * wide + column);
                          fetch_panel<true>(to + row * units + column);
                        },
                        [=](int64_t row, int height, int64_t column, const float* products) {
                          for (int64_t i = row; i < row + height; ++i, products += kPanel) {
                            const float* add = dsum ? dsum + i * wide + column : nullptr;
                            float* sum = to + i * units + column;
                            for_columns(units - column, [=](int c) {
                              sum[c] = products[c] + (add ? add[c] : 0.0f);
                            });
                          }
                        });
    dprojections_.pack(dx, kv_stride(), block.begin, count, kv_stride());
  }

  // The same for the queries of the first tokens.
  void finish_first(const Share& block) {
    const int64_t count = block.end - block.begin;
    const Number* dx = dprojected_.q + block.begin * wide;
    dfirst_.pack(dx, wide, block.begin, count, wide);
    multiply_rows<Type>(dx, wide, count, query_, wide / kPanel, wide / Type::kStep, FetchNothing(),
                        [&](int64_t i, int height, int64_t column, const float* products) {
                          for (const int64_t end = i + height; i < end; ++i, products += kPanel) {
                            const int64_t row = block.begin + i;
                            float* to = to_.hidden + in_.offsets[row] * units + column;
                            const float* dsum = dsum_ + row * wide + column;
                            for_columns(units - column,
                                        [=](int c) { to[c] += products[c] + dsum[c]; });
                          }
                        });
  }

  // The blocks' sums, in the order of the blocks.
  void add_up() {
    const Sums from = sums_of(0);
    const int64_t count = blocks_of(rows), size = sums_size();
    const auto add = [=](const float* first, int64_t columns, float* to) {
      std::copy_n(first, columns, to);
      for (int64_t block = 1; block < count; ++block)
        for (int64_t c = 0; c < columns; ++c) to[c] += first[block * size + c];
    };
    add(from.outer_gamma, units, to_.outer_gamma);
    add(from.outer_beta, units, to_.outer_beta);
    add(from.outer_bias, units, to_.outer_bias);
    add(from.gamma, units, to_.gamma);
    add(from.beta, units, to_.beta);
    add(from.bias, units, to_.projection_bias);
    add(from.inner_bias, hidden, to_.inner_bias);
    std::vector<float> sums(3 * units);
    projection_sums_.store(sums.data());
    for (int i = 0; i < 3; ++i)
      std::copy_n(sums.data() + i * units, units, to_.projection_biases[i]);
  }

  const LayerInputs& in_;
  const LayerKept<Type>& kept_;
  const float* dout_;
  const LayerGradients& to_;
  std::vector<float> no_bias_;
  ColumnSums projection_sums_;
  Number *projections_, *query_, *projection_, *inner_, *outer_;  // weights
  LeftFactor<Type> dfirst_, dprojections_, dprojection_, dinner_, douter_;
  Projected<Number> dprojected_;
  Number* dcontext_;
  float *dsum_, *sums_;
  Number *dx_, *dbetween_;  // of each thread
  float *outer_dsum_, *dattended_, *dropped_;
};

}  // namespace bert
