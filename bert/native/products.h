// Products of training: of rows with packed weights, and of two packed factors for the gradients of
// weights. Their tile is that of inference.
//
// Three things are packed, each in panels of some columns, [steps][columns][kStep], as a tile reads
// them: weights, to be multiplied with rows, panels of kPanel columns; and for the gradients of
// weights, whose sums run over the rows, left factors in panels of kLeft and right ones in panels
// of kPanel columns. What fills up a panel, or a last step, is 0.
#pragma once

#include <numeric>

#include "packed.h"

namespace bert {

constexpr int kLeft = kPanelRows;
// Rows in memory have a multiple of so many numbers: whole panels of either kind.
constexpr int kColumns = std::lcm(kPanel, kLeft);
// Rows that go through a layer together: they stay in the second cache.
constexpr int kBlockRows = 72;
// Steps of a gradient's sum that are taken together: a right panel of them stays there, too.
constexpr int64_t kMostSteps = 1200;
// Left panels that a thread multiplies with a right one; the next one gets the same ones.
constexpr int64_t kLeftTogether = 16;

inline int64_t whole(int64_t columns) { return divide_up(columns, kColumns) * kColumns; }

template <typename Type>
int64_t steps_of(int64_t depth) {
  return divide_up(depth, Type::kStep);
}

// The size of a factor of so many rows that is packed for the gradient of a weight.
template <typename Type>
int64_t packed_size(int64_t rows, int64_t columns) {
  return steps_of<Type>(rows) * Type::kStep * whole(columns);
}

// One column of kWidth vectors becomes kWidth rows: numbers of 32 bits, or pairs of 16.
template <typename Type>
Vec line(const float* from, int64_t count) {
  constexpr int kNumbers = kWidth * Type::kStep;
  alignas(64) float padded[kNumbers];
  if (count < kNumbers) {
    std::fill_n(padded, kNumbers, 0.0f);
    std::copy_n(from, std::max<int64_t>(count, 0), padded);
    from = padded;
  }
  if constexpr (std::is_same<Type, Float32>::value) return load(from);
  Vec result;
  alignas(64) typename Type::Number numbers[kNumbers];
  Type::store(from, kNumbers, numbers);
  std::memcpy(&result, numbers, sizeof result);
  return result;
}

// A panel of weight^T, for rows times weight^T: columns are rows of weight [rows, depth].
template <typename Type>
void pack_transposed(const float* weight, int64_t rows, int64_t depth, int64_t panel,
                     typename Type::Number* to) {
  constexpr int kNumbers = kWidth * Type::kStep;
  const int64_t steps = steps_of<Type>(depth);
  for (int part = 0; part < kPanel; part += kWidth) {
    const int64_t first = panel * kPanel + part;
    for (int64_t step = 0; step < steps; step += kWidth) {
      const int64_t begin = step * Type::kStep;
      Vec lines[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        const bool there = first + i < rows;
        const float* from = weight + (there ? first + i : 0) * depth + begin;
        __builtin_prefetch(from + kNumbers);
        lines[i] = there ? line<Type>(from, depth - begin) : Vec{};
      }
      transpose(lines);
      for (int i = 0; i < std::min<int64_t>(kWidth, steps - step); ++i)
        std::memcpy(to + ((step + i) * kPanel + part) * Type::kStep, &lines[i], sizeof lines[i]);
    }
  }
}

// A step of a panel: kStep rows of kWide numbers each, of which the last may be missing (null).
// kStream: past the caches, which other threads see behind a barrier only.
template <typename Type, int kWide, bool kStream = false>
void interleave(const typename Type::Number* first, const typename Type::Number* second,
                typename Type::Number* to) {
  if constexpr (Type::kStep == 1) {
    std::copy_n(first, kWide, to);
  } else {
    uint32_t pairs[kWide];
    for (int c = 0; c < kWide; ++c) pairs[c] = first[c];
    if (second)
      for (int c = 0; c < kWide; ++c) pairs[c] |= static_cast<uint32_t>(second[c]) << 16;
#if defined(__AVX512F__)
    if constexpr (kStream) {
      for (int c = 0; c < kWide; c += kWidth)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + 2 * c), _mm512_loadu_si512(pairs + c));
      return;
    }
#endif
    std::memcpy(to, pairs, sizeof pairs);
  }
}

// A panel of weight [rows, columns], for rows times weight; `steps` may be more than it has.
template <typename Type>
void pack_straight(const float* weight, int64_t rows, int64_t columns, int64_t panel, int64_t steps,
                   typename Type::Number* to) {
  const int64_t first = panel * kPanel, count = std::min<int64_t>(kPanel, columns - first);
  alignas(64) float padded[kPanel] = {};
  alignas(64) typename Type::Number numbers[Type::kStep][kPanel];
  for (int64_t step = 0; step < steps; ++step, to += kPanel * Type::kStep) {
    for (int i = 0; i < Type::kStep; ++i) {
      const int64_t row = step * Type::kStep + i;
      const float* from = weight + row * columns + first;
      if (row >= rows || count < kPanel) {
        std::fill_n(padded, kPanel, 0.0f);
        if (row < rows && count > 0) std::copy_n(from, count, padded);
        from = padded;
      } else {
        __builtin_prefetch(from + 8 * columns);
        __builtin_prefetch(from + 8 * columns + 16);
        __builtin_prefetch(from + 8 * columns + 32);
      }
      Type::store(from, kPanel, numbers[i]);
    }
    interleave<Type, kPanel>(numbers[0], numbers[Type::kStep - 1], to);
  }
}

// A factor packed for the gradient of a weight, panels of kWide columns; `steps` for all rows.
template <typename Type, int kWide>
struct Factor {
  using Number = typename Type::Number;
  // Right factors are read much later, in the backward pass.
  static constexpr bool kStream = kWide == kPanel;
  Number* numbers;
  int64_t steps;

  int64_t panel_size() const { return steps * kWide * Type::kStep; }
  Number* at(int64_t panel, int64_t step) const {
    return numbers + panel * panel_size() + step * kWide * Type::kStep;
  }
  // The panels from a column on.
  Factor from(int64_t column) const { return {at(column / kWide, 0), steps}; }

  // Packs `count` rows, the first of which is `row`, the first of a step.
  void pack(const Number* rows, int64_t stride, int64_t row, int64_t count, int64_t columns) const {
    for (int64_t first = 0; first < columns; first += kColumns)
      for (int64_t i = 0; i < count; i += Type::kStep)
        for (int64_t column = first; column < first + kColumns; column += kWide) {
          const Number* from = rows + i * stride + column;
          interleave<Type, kWide, kStream>(from, i + 1 < count ? from + stride : nullptr,
                                  at(column / kWide, (row + i) / Type::kStep));
        }
  }
};
template <typename Type>
using LeftFactor = Factor<Type, kLeft>;
template <typename Type>
using RightFactor = Factor<Type, kPanel>;

// Asks for the memory of a panel's numbers in a row, which a tile's sums will need.
template <bool kWrite, typename T>
void fetch_panel(const T* from) {
  const char* line = reinterpret_cast<const char*>(from);
  for (size_t byte = 0; byte < kPanel * sizeof(T); byte += 64)
    __builtin_prefetch(line + byte, kWrite);
}
struct FetchNothing {
  void operator()(int64_t, int64_t) const {}
};

// Rows [rows, stride] times panels, tile by tile: calls fetch(row, first column) for each of its
// rows before, and finish(first row, how many, first column, sums [rows, kPanel]) after it is
// multiplied.
template <typename Type, typename Fetch, typename Finish>
void multiply_rows(const typename Type::Number* x, int64_t stride, int64_t rows,
                   const typename Type::Number* panels, int64_t count, int64_t steps,
                   const Fetch& fetch, const Finish& finish) {
  const int64_t size = steps * kPanel * Type::kStep;
  alignas(64) float sums[Type::kRows * kPanel];
  for (int64_t p = 0; p < count; ++p, panels += size) {
    const auto* next = p + 1 < count ? panels + size : panels;
    for (int64_t row = 0; row < rows; row += Type::kRows) {
      const int height = std::min<int64_t>(Type::kRows, rows - row);
      for (int i = 0; i < height; ++i) fetch(row + i, p * kPanel);
      const auto multiply = row ? any_tile<Type, false> : any_tile<Type, true>;
      multiply(height, steps, x + row * stride, stride, panels, next, sums);
      finish(row, height, p * kPanel, sums);
    }
  }
}

// out [rows, columns] = left^T right, the gradient of a weight. Its items are a right panel each,
// with some left ones.
template <typename Type>
struct WeightGradient {
  LeftFactor<Type> left;
  RightFactor<Type> right;
  float* out;
  int64_t rows, columns;

  int64_t left_panels() const { return divide_up(rows, kLeft); }
  int64_t chunks() const { return divide_up(left_panels(), kLeftTogether); }
  int64_t right_panels() const { return divide_up(columns, kPanel); }
  int64_t items() const { return right_panels() * chunks(); }

  void compute(int64_t item) const {
    const int64_t panel = item % right_panels(), column = panel * kPanel;
    const Share lefts(left_panels(), item / right_panels(), chunks());
    const int64_t parts = divide_up(left.steps, kMostSteps);
    const int width = std::min<int64_t>(kPanel, columns - column);
    alignas(64) float sums[kLeft * kPanel];
    for (int64_t part = 0; part < parts; ++part) {
      const Share steps(left.steps, part, parts);
      for (int64_t i = lefts.begin; i < lefts.end; ++i) {
        panel_tile<Type, kLeft, false, kLeft * Type::kStep>(
            steps.end - steps.begin, left.at(i, steps.begin), Type::kStep,
            right.at(panel, steps.begin), nullptr, sums);
        const int height = std::min<int64_t>(kLeft, rows - i * kLeft);
        for (int r = 0; r < height; ++r) {
          float* to = out + (i * kLeft + r) * columns + column;
          const float* from = sums + r * kPanel;
          if (part == 0) {
            std::copy_n(from, width, to);
          } else {
            for (int c = 0; c < width; ++c) to[c] += from[c];
          }
        }
      }
    }
  }
};

}  // namespace bert
