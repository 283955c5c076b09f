// Multi-head attention of inference (Vaswani et al. 2017, equation 1), in float32, in place on the
// joined projections. The operators of attention.cc have gradients and dropout besides.
#pragma once

#include "softmax.h"

namespace bert {

constexpr int kQueries = 60;  // of a block: its scores stay in the caches

// Sentence s has the rows offsets[s] to offsets[s + 1]. `keys` [rows, stride] are followed, `units`
// numbers later, by the values.
struct Sentences {
  const int32_t* offsets;
  int64_t units, heads;
  const float* keys;

  int length(int64_t s) const { return offsets[s + 1] - offsets[s]; }
};

// The queries [rows, stride], and where their contexts go. `first_only`: one of each sentence.
template <typename Number>
struct Queries {
  const float* q;
  Number* context;
  int64_t stride, context_stride;
  bool first_only;
};

// A thread's own memory.
struct AttentionScratch {
  Buffer<float> keys, scores, context, per_row;

  void reserve(int length, int depth) {
    keys.resize(std::max<size_t>(keys.size(), padded(length) * padded(depth)));
    scores.resize(std::max<size_t>(scores.size(), kQueries * padded(length)));
    context.resize(std::max<size_t>(context.size(), kQueries * padded(depth)));
    per_row.resize(kQueries);
  }
};

// to [padded(columns), to_stride] = the transpose of from [rows, stride], whose memory must have
// whole vectors in both directions. What lies beyond `rows` and `columns` is copied, too.
inline void transpose(const float* from, int64_t stride, int rows, int columns, float* to,
                      int to_stride) {
  for (int row = 0; row < rows; row += kWidth)
    for (int column = 0; column < columns; column += kWidth) {
      Vec lines[kWidth];
      for (int i = 0; i < kWidth; ++i) lines[i] = load(from + (row + i) * stride + column);
      transpose(lines);
      for (int i = 0; i < kWidth; ++i) store(lines[i], to + (column + i) * to_stride + row);
    }
}

// context = softmax(q k^T / sqrt(depth)) v for a share of all heads of all sentences.
template <typename Type, typename Number>
void attend_heads(const Sentences& in, const Queries<Number>& queries, const Share& tasks,
                  AttentionScratch* scratch) {
  const int depth = in.units / in.heads, context_stride = padded(depth);
  const float factor = 1.0f / std::sqrt(1.0f * depth);
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const int64_t s = task / in.heads, column = task % in.heads * depth;
    const int length = in.length(s), keys_stride = padded(length);
    const float* keys = in.keys + in.offsets[s] * queries.stride + column;
    transpose(keys, queries.stride, length, depth, scratch->keys.data(), keys_stride);
    const int64_t first = queries.first_only ? s : in.offsets[s];
    const int count = queries.first_only ? 1 : length;
    const int blocks = (count + kQueries - 1) / kQueries;
    for (int block = 0; block < blocks; ++block) {
      const Share part(count, block, blocks);
      const int rows = part.end - part.begin;
      const float* q = queries.q + (first + part.begin) * queries.stride + column;
      float* scores = scratch->scores.data();
      multiply(rows, keys_stride, depth, {q, static_cast<int>(queries.stride), 1},
               scratch->keys.data(), keys_stride, scores, keys_stride);
      exponentials(scores, rows, length, factor, scratch->per_row.data());
      float* context = scratch->context.data();
      multiply(rows, context_stride, length, {scores, keys_stride, 1}, keys + in.units,
               queries.stride, context, context_stride);
      for (int i = 0; i < rows; ++i) {
        Number* to = queries.context + (first + part.begin + i) * queries.context_stride + column;
        const float scale = scratch->per_row[i];
#pragma omp simd
        for (int d = 0; d < depth; ++d) to[d] = Type::number(context[i * context_stride + d] * scale);
      }
    }
  }
}

}  // namespace bert
