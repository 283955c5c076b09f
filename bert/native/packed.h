// Products of inference, x W^T: the weights are packed once, when the network is loaded.
//
// A panel holds kPanel columns of W^T in the order in which a tile reads them, [depth][kPanel]. A
// tile multiplies up to kRows rows with a panel, all sums in registers. Few rows are as fast as
// memory is: the next panel is fetched meanwhile. Each sum is added up in one order, so that the
// result depends neither on the other rows nor on the number of threads.
#pragma once

#include <cstdlib>
#include <new>

#include "amx.h"
#include "tiles.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace bert {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPanelVectors = 3, kPanelRows = 8;  // with columns and an element 28 of 32 registers
#else
constexpr int kPanelVectors = 2, kPanelRows = 6;  // 15 of 16
#endif
constexpr int kPanel = kPanelVectors * kWidth;
// Rows that are multiplied with a panel before the next one comes: they stay in the second cache,
// which usually has a megabyte. With half as many MiniLM is 7 % slower: panels are read more often.
constexpr int64_t kBlockBytes = 512 << 10;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t panels_of(int64_t columns) { return divide_up(columns, kPanel); }
// The stride of a row of so many numbers: products write whole panels, and AMX reads 32 numbers.
inline int64_t stride_of(int64_t columns) { return divide_up(columns, 2 * kPanel) * 2 * kPanel; }

// What numbers are multiplied. A step along the depth takes kStep numbers (32 bits) of a row and of
// each column, and adds their products to the columns' sums.
struct Float32 {
  using Number = float;
  static constexpr int kStep = 1, kRows = kPanelRows;
  struct Unit {};  // what a thread has to hold while it multiplies
  static Number number(float value) { return value; }
  static float value(Number number) { return number; }
  static void store(const float* from, int count, Number* to) { std::copy_n(from, count, to); }

  struct Columns {
    Vec w;
    Columns() = default;
    explicit Columns(const Number* from) : w(load(from)) {}
  };
  struct Element {
    float x;
    explicit Element(const Number* from) : x(*from) {}
  };
  static void add(const Columns& columns, const Element& element, Vec* sum) {
    *sum += columns.w * element.x;
  }
};

struct BFloat16 {
  using Number = uint16_t;
  static constexpr int kStep = 2, kRows = kPanelRows;
  struct Unit {};

  // The nearest one, the even one of two; nan stays nan.
  static Number number(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded;
  }

  static float value(Number number) {
    const uint32_t bits = static_cast<uint32_t>(number) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

#if defined(__AVX512BF16__)
  // Whole vectors.
  static void store(const float* from, int count, Number* to) {
    for (int i = 0; i < count; i += kWidth)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                          (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
  }

  struct Columns {
    __m512i w;
    Columns() = default;
    explicit Columns(const Number* from) : w(_mm512_loadu_si512(from)) {}
  };
  struct Element {
    __m512i x;
    explicit Element(const Number* from) {
      int32_t pair;
      std::memcpy(&pair, from, sizeof pair);
      x = _mm512_set1_epi32(pair);
    }
  };
  static void add(const Columns& columns, const Element& element, Vec* sum) {
    *sum = (Vec)_mm512_dpbf16_ps((__m512)*sum, (__m512bh)columns.w, (__m512bh)element.x);
  }
#else
  static void store(const float* from, int count, Number* to) {
    for (int i = 0; i < count; ++i) to[i] = number(from[i]);
  }

  struct Columns {
    Vec even, odd;
    Columns() = default;
    explicit Columns(const Number* from) {
      typedef uint32_t Pairs __attribute__((vector_size(kWidth * sizeof(uint32_t))));
      Pairs pairs;
      std::memcpy(&pairs, from, sizeof pairs);
      even = (Vec)(pairs << 16), odd = (Vec)(pairs & 0xffff0000u);
    }
  };
  struct Element {
    float even, odd;
    explicit Element(const Number* from) {
      const uint32_t bits[2] = {static_cast<uint32_t>(from[0]) << 16,
                                static_cast<uint32_t>(from[1]) << 16};
      std::memcpy(&even, bits, sizeof even);
      std::memcpy(&odd, bits + 1, sizeof odd);
    }
  };
  static void add(const Columns& columns, const Element& element, Vec* sum) {
    *sum += columns.even * element.even;
    *sum += columns.odd * element.odd;
  }
#endif
};

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
// A step is as deep as a tile. Rows are read by 16, whether they are there or not.
struct AmxBFloat16 : BFloat16 {
  static constexpr int kStep = 32, kRows = 32;
  using Unit = Tiles;
};
#endif

// Memory for a vector whose elements are aligned to cache lines.
template <typename T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (void* memory = std::aligned_alloc(64, bytes)) return static_cast<T*>(memory);
    throw std::bad_alloc();
  }
  void deallocate(T* memory, size_t) { std::free(memory); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <typename T>
using Buffer = std::vector<T, Aligned<T>>;

// Some dense layers of the same input, joined: weights [columns of each, depth] and biases.
template <typename Type>
class Packed {
 public:
  using Number = typename Type::Number;

  Packed(const std::vector<const float*>& weights, const std::vector<const float*>& biases,
         int64_t columns_of_each, int64_t depth)
      : steps_(divide_up(depth, Type::kStep)),
        panels_(panels_of(weights.size() * columns_of_each)),
        numbers_(panels_ * panel_size()),
        bias_(panels_ * kPanel) {
    const int64_t columns = weights.size() * columns_of_each;
    for (int64_t column = 0; column < columns; ++column)
      bias_[column] = biases[column / columns_of_each][column % columns_of_each];
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < panels_; ++index) {
      Number* to = &numbers_[index * panel_size()];
      const int64_t first = index * kPanel, count = std::min<int64_t>(kPanel, columns - first);
      for (int64_t begin = 0; begin < depth; begin += kPackedTogether)
        for (int64_t c = 0; c < count; ++c) {
          const int64_t column = first + c, end = std::min(depth, begin + kPackedTogether);
          const float* from = weights[column / columns_of_each] + column % columns_of_each * depth;
          for (int64_t k = begin; k < end; ++k)
            to[(k / kPair * kPanel + c) * kPair + k % kPair] = Type::number(from[k]);
        }
    }
  }

  int64_t steps() const { return steps_; }
  int64_t panels() const { return panels_; }
  int64_t panel_size() const { return steps_ * kPanel * Type::kStep; }
  const Number* panel(int64_t index) const { return &numbers_[index * panel_size()]; }
  const float* bias() const { return bias_.data(); }

 private:
  static constexpr int64_t kPair = 4 / sizeof(Number);  // numbers of a column in 32 bits
  static constexpr int64_t kPackedTogether = 64;  // numbers of a column: the lines stay in cache
  int64_t steps_, panels_;
  Buffer<Number> numbers_;
  Buffer<float> bias_;
};

// sums [kRows, kPanel] = x [kRows, depth] times a panel; fetches the panel at `next`. The numbers of
// a row's next step are `kAhead` numbers further.
template <typename Type, int kRows, bool kFetch, int kAhead = Type::kStep>
void panel_tile(int64_t steps, const typename Type::Number* x, int64_t stride,
                const typename Type::Number* panel, const typename Type::Number* next,
                float* sums) {
  constexpr int kStep = Type::kStep, kLine = 64 / sizeof(*x);
  // Unrolled, all of `sum` stays in registers: otherwise it is cleared and copied in memory, too.
  Vec sum[kRows][kPanelVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kPanelVectors; ++j) sum[i][j] = Vec{};
  for (; steps > 0; --steps, x += kAhead, panel += kPanel * kStep, next += kPanel * kStep) {
    typename Type::Columns columns[kPanelVectors];
    for (int j = 0; j < kPanelVectors; ++j)
      columns[j] = typename Type::Columns(panel + j * kWidth * kStep);
    if (kFetch)
      for (int j = 0; j < kPanel * kStep; j += kLine) __builtin_prefetch(next + j, 0, 2);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const typename Type::Element element(x + i * stride);
#pragma GCC unroll 3
      for (int j = 0; j < kPanelVectors; ++j) Type::add(columns[j], element, &sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kPanelVectors; ++j) store(sum[i][j], sums + i * kPanel + j * kWidth);
}

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
// The same by AMX: tiles 0 to 5 hold sums, 6 rows of x, 7 columns.
template <bool kFetch>
void amx_tile(int rows, int64_t steps, const uint16_t* x, int64_t stride, const uint16_t* panel,
              const uint16_t* next, float* sums) {
  constexpr int kStep = AmxBFloat16::kStep, kBytes = kPanel * sizeof(float);
  __asm__ volatile("" ::: "memory");  // GCC's loads of tiles do not say that they read memory
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
  for (; steps > 0; --steps, x += kStep, panel += kPanel * kStep, next += kPanel * kStep) {
    if (kFetch)
      for (int j = 0; j < kPanel * kStep; j += 32) __builtin_prefetch(next + j, 0, 2);
    _tile_loadd(6, x, stride * 2);
    _tile_loadd(7, panel, kBytes); _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, panel + 32, kBytes); _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, panel + 64, kBytes); _tile_dpbf16ps(2, 6, 7);
    if (rows <= 16) continue;
    _tile_loadd(6, x + 16 * stride, stride * 2);
    _tile_loadd(7, panel, kBytes); _tile_dpbf16ps(3, 6, 7);
    _tile_loadd(7, panel + 32, kBytes); _tile_dpbf16ps(4, 6, 7);
    _tile_loadd(7, panel + 64, kBytes); _tile_dpbf16ps(5, 6, 7);
  }
  _tile_stored(0, sums, kBytes); _tile_stored(1, sums + 16, kBytes);
  _tile_stored(2, sums + 32, kBytes); _tile_stored(3, sums + 16 * kPanel, kBytes);
  _tile_stored(4, sums + 16 * kPanel + 16, kBytes);
  _tile_stored(5, sums + 16 * kPanel + 32, kBytes);
}
#endif

template <typename Type, bool kFetch, int kRows = Type::kRows>
void any_tile(int rows, int64_t steps, const typename Type::Number* x, int64_t stride,
              const typename Type::Number* panel, const typename Type::Number* next, float* sums) {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
  if constexpr (std::is_same<Type, AmxBFloat16>::value)
    return amx_tile<kFetch>(rows, steps, x, stride, panel, next, sums);
#endif
  if constexpr (kRows > 0) {
    if (rows < kRows)
      any_tile<Type, kFetch, kRows - 1>(rows, steps, x, stride, panel, next, sums);
    else
      panel_tile<Type, kRows, kFetch>(steps, x, stride, panel, next, sums);
  }
}

// x W^T: rows of x [rows, stride] times some of W's panels. Its items are blocks of rows times one
// panel each, block after block.
template <typename Type>
struct Product {
  const typename Type::Number* x;
  int64_t rows, stride;
  const Packed<Type>& w;
  int64_t first_panel, panels;

  int64_t tiles() const { return divide_up(rows, Type::kRows); }
  int64_t blocks() const {
    const int64_t bytes = rows * w.steps() * Type::kStep * sizeof(*x);
    return std::min(tiles(), divide_up(bytes, kBlockBytes));
  }
  int64_t items() const { return blocks() * panels; }

  // Calls finish(row, first column, sums [kPanel]) for a share of the items; the item `after` it is
  // fetched.
  template <typename Finish>
  void compute(const Share& share, int64_t after, const Finish& finish) const {
    const int64_t tiles = this->tiles(), blocks = this->blocks();
    alignas(64) float sums[Type::kRows * kPanel];
    for (int64_t item = share.begin; item < share.end; ++item) {
      const Share block(tiles, item / panels, blocks);
      const auto* panel = panel_of(item);
      const auto* next = panel_of(item + 1 < share.end ? item + 1 : after);
      for (int64_t tile = block.begin; tile < block.end; ++tile) {
        const Share part(rows, tile, tiles);
        const int count = part.end - part.begin;
        const auto multiply = tile == block.begin ? any_tile<Type, true> : any_tile<Type, false>;
        multiply(count, w.steps(), x + part.begin * stride, stride, panel, next, sums);
        for (int i = 0; i < count; ++i)
          finish(part.begin + i, (first_panel + item % panels) * kPanel, sums + i * kPanel);
      }
    }
  }

 private:
  const typename Type::Number* panel_of(int64_t item) const {
    return w.panel(first_panel + item % panels);
  }
};

}  // namespace bert
