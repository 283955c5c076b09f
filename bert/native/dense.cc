// out = x W^T, products of float32 on the matrix units for bfloat16 (Intel's AMX).
//
// Inputs: x [rows, depth], W [units, depth]. Output [rows, units].
//
// A number of 24 bits is the sum of three of 8 bits, x = x1 + x2 + x3, exactly. Of the nine products
// of two such sums the six largest are taken; what is left out is 2^-23 of the product at most. Sums
// are float32, over 768 products at most, and these are added up: the result is closer to the exact
// one than that of a loop in float32 (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16
// artificial intelligence datatype for higher-precision computations"). Subnormal numbers count as
// 0, and infinite ones give nan.
//
// As in Goto and van de Geijn 2008 ("Anatomy of high-performance matrix multiplication"), both
// factors are cut along their common side into slabs, and copied in the order in which they are
// read: a slab of the left one for all threads, blocks of the right one for the second cache of the
// thread that uses them. What is needed next is asked for early: without that, 3 % slower. A left
// factor of more rows than kMostSlabBytes has room for is multiplied in several parts.
#include "amx.h"
#include "common.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
namespace bert {
namespace {

// A factor [rows, depth]: element (r, d) is data[r * stride + d], or if transposed
// data[d * stride + r].
struct Matrix {
  const float* data;
  int64_t rows, depth, stride;
  bool transposed;
};

constexpr int kTile = 1024;       // bytes of a tile: 16 rows of 32 numbers
constexpr int kRows = 32;         // of a strip
constexpr int kDepth = 32;        // of a step
constexpr int kPart = 2 * kTile;  // bytes of a step's first, second or third parts
constexpr int kStep = 3 * kPart;  // bytes of a step
constexpr int kSlab = 768;        // depth at most; with kBlock, measured
constexpr int kBlock = 8;         // strips at most
constexpr int kFetches = 6;       // of a step
// Of the left factor, at once: far more than a batch in training needs.
constexpr int64_t kMostSlabBytes = 1 << 29;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline __mmask16 first(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1;
}

// Transposes 16 x 16 numbers of 32 bits.
inline void transpose(__m512i* rows) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i even = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    const __m512i later_even = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    const __m512i later_odd = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
    t[i] = _mm512_shuffle_i32x4(even, later_even, 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(odd, later_odd, 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(even, later_even, 0xdd);
    t[12 + i] = _mm512_shuffle_i32x4(odd, later_odd, 0xdd);
  }
  std::copy_n(t, 16, rows);
}

// The first 8 bits of each number, rounded.
inline __m512 leading(__m512 x) {
  const __m512i bits = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
  return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff0000)));
}

// A step of a strip, as three times two tiles: [row][d] in a left factor, [d / 2][row][d % 2] in a
// right one. Both are 16 x 16 pairs, and one is the transpose of the other.
template <bool left>
void pack_step(const Matrix& from, int64_t row, int64_t begin, int64_t depth, char* to) {
  alignas(64) static const uint16_t kInterleaved[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kInterleaved);
  for (int half = 0; half < 2; ++half, row += 16, to += kTile) {
    const int64_t rows = from.rows - row;
    __m512i parts[3][16];
    for (int i = 0; i < 16; ++i) {
      __m512 low, high;
      if (from.transposed) {
        const float* in = from.data + (begin + 2 * i) * from.stride + row;
        _mm_prefetch(in + 2 * kRows, _MM_HINT_T0);
        _mm_prefetch(in + from.stride + 2 * kRows, _MM_HINT_T0);
        low = _mm512_maskz_loadu_ps(2 * i < depth ? first(rows) : 0, in);
        high = _mm512_maskz_loadu_ps(2 * i + 1 < depth ? first(rows) : 0, in + from.stride);
      } else {
        const float* in = from.data + (row + i) * from.stride + begin;
        _mm_prefetch(in + 2 * kDepth, _MM_HINT_T0);
        _mm_prefetch(in + 2 * kDepth + 16, _MM_HINT_T0);
        low = _mm512_maskz_loadu_ps(i < rows ? first(depth) : 0, in);
        high = _mm512_maskz_loadu_ps(i < rows ? first(depth - 16) : 0, in + 16);
      }
      for (int part = 0; part < 3; ++part) {
        const __m512 low_part = part < 2 ? leading(low) : low;
        const __m512 high_part = part < 2 ? leading(high) : high;
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high_part, low_part);
        parts[part][i] = from.transposed ? _mm512_permutexvar_epi16(order, both) : both;
        low = _mm512_sub_ps(low, low_part);
        high = _mm512_sub_ps(high, high_part);
      }
    }
    for (int part = 0; part < 3; ++part) {
      if (from.transposed == left) transpose(parts[part]);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(to + part * kPart + 64 * i, parts[part][i]);
    }
  }
}

// Strips of a slab, in the order in which their numbers stand in memory.
template <bool left>
void pack(const Matrix& from, int64_t strip_begin, int64_t strip_end, int64_t begin, int64_t depth,
          int64_t strip_bytes, char* to) {
  auto pack_one = [&](int64_t strip, int64_t d) {
    pack_step<left>(from, strip * kRows, begin + d, depth - d,
                    to + (strip - strip_begin) * strip_bytes + d / kDepth * kStep);
  };
  if (from.transposed) {
    for (int64_t d = 0; d < depth; d += kDepth)
      for (int64_t strip = strip_begin; strip < strip_end; ++strip) pack_one(strip, d);
  } else {
    for (int64_t strip = strip_begin; strip < strip_end; ++strip)
      for (int64_t d = 0; d < depth; d += kDepth) pack_one(strip, d);
  }
}

// Of the tiles 0 to 3 hold sums, 4 and 5 what comes from the left factor, 6 and 7 what comes from the
// right one.

// Load the tiles of a part of one factor, or of both, and add the products with the other's to the
// sums: a tile is multiplied as soon as it is there, while the next one is loaded.
inline void add_left(const char* part) {
  _tile_loadd(4, part, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, part + kTile, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

inline void add_right(const char* part) {
  _tile_loadd(6, part, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(2, 5, 6);
  _tile_loadd(7, part + kTile, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(3, 5, 7);
}

inline void add_both(const char* left, const char* right) {
  _tile_loadd(4, left, 64);
  _tile_loadd(6, right, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, right + kTile, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, left + kTile, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// sums [kRows, kRows] = one strip times another. Meanwhile `lines` cache lines are fetched from
// `next` on, kFetches times a step: all at once they would hold up the tiles.
void multiply(const char* left, const char* right, int steps, const char* next, int lines,
              float* sums) {
  // GCC's loads of tiles do not say that they read memory: what was packed must be there.
  __asm__ volatile("" ::: "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const auto fetch = [&] {
    for (int line = 0; line < lines; ++line, next += 64) _mm_prefetch(next, _MM_HINT_T1);
  };
  // a3 b1 + a1 b1 + a2 b1 + a2 b2 + a1 b2 + a1 b3: an order of few loads
  for (int i = 0; i < steps; ++i, left += kStep, right += kStep) {
    fetch(), add_both(left + 2 * kPart, right);
    fetch(), add_left(left);
    fetch(), add_left(left + kPart);
    fetch(), add_right(right + kPart);
    fetch(), add_left(left);
    fetch(), add_right(right + 2 * kPart);
  }
  constexpr int kStride = kRows * sizeof(float);
  _tile_stored(0, sums, kStride);
  _tile_stored(1, sums + 16, kStride);
  _tile_stored(2, sums + 16 * kRows, kStride);
  _tile_stored(3, sums + 16 * kRows + 16, kStride);
}

// How many of the threads share the columns of a product; the others share its rows.
int column_threads(int threads, int64_t strips) {
  int most = 1;
  for (int count = 2; count <= threads; ++count)
    if (threads % count == 0 && strips >= 4 * count) most = count;
  return most;
}

// How a left factor is cut for a product.
struct Slabs {
  int64_t depth, strip_bytes, strips;

  Slabs(const Matrix& a, int64_t most_bytes) {
    depth = divide_up(a.depth, divide_up(a.depth, kSlab) * kDepth) * kDepth;
    strip_bytes = depth / kDepth * kStep;
    strips = std::min(divide_up(a.rows, kRows), std::max<int64_t>(most_bytes / strip_bytes, 1));
  }

  int64_t bytes() const { return (strips + int64_t{omp_get_max_threads()} * kBlock) * strip_bytes; }
};

// out [a.rows, b.rows] = A B^T, for a left factor whose slabs fit the memory at `slab`.
void product(const Matrix& a, const Matrix& b, const Slabs& slabs, char* slab, float* out) {
  const int64_t a_strips = divide_up(a.rows, kRows), b_strips = divide_up(b.rows, kRows);
  const int64_t slab_depth = slabs.depth, strip_bytes = slabs.strip_bytes;
#pragma omp parallel
  {
    const Tiles tiles;
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const int wide = column_threads(threads, b_strips);
    const Share packed(a_strips);
    const Share rows(a_strips, thread / wide, threads / wide), columns(b_strips, thread % wide, wide);
    char* block = slab + (a_strips + thread * kBlock) * strip_bytes;
    alignas(64) float sums[kRows][kRows];
    for (int64_t begin = 0; begin < a.depth; begin += slab_depth) {
      const int64_t depth = std::min(slab_depth, a.depth - begin);
      const int steps = divide_up(depth, kDepth);
      pack<true>(a, packed.begin, packed.end, begin, depth, strip_bytes,
                 slab + packed.begin * strip_bytes);
#pragma omp barrier
      const int64_t width = columns.end - columns.begin, blocks = divide_up(width, kBlock);
      for (int64_t i = 0; i < blocks; ++i) {
        const Share part(width, i, blocks);
        const int64_t first_column = columns.begin + part.begin, count = part.end - part.begin;
        pack<false>(b, first_column, first_column + count, begin, depth, strip_bytes, block);
        const int lines = divide_up(kStep / 64 / kFetches, count);
        for (int64_t row = rows.begin; row < rows.end; ++row) {
          const char* next = slab + (row + 1) * strip_bytes;
          for (int64_t j = 0; j < count; ++j, next += steps * kFetches * lines * 64) {
            const int64_t height = std::min<int64_t>(kRows, a.rows - row * kRows);
            const int64_t column = (first_column + j) * kRows;
            float* to = out + row * kRows * b.rows + column;
            for (int64_t r = 0; r < height; ++r) {
              _mm_prefetch(to + r * b.rows, _MM_HINT_T0);
              _mm_prefetch(to + r * b.rows + 16, _MM_HINT_T0);
            }
            multiply(slab + row * strip_bytes, block + j * strip_bytes, steps, next, lines,
                     &sums[0][0]);
            for (int64_t r = 0; r < height; ++r, to += b.rows)
              for (int64_t c = 0; c < kRows; c += 16) {
                const __mmask16 valid = first(b.rows - column - c);
                __m512 sum = _mm512_load_ps(&sums[r][c]);
                if (begin) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(valid, to + c));
                _mm512_mask_storeu_ps(to + c, valid, sum);
              }
          }
        }
      }
#pragma omp barrier
    }
  }
}

// The same for any left factor; false if there is not enough memory.
bool product(const Matrix& a, const Matrix& b, float* out, const OpResource& resource,
             int64_t most_bytes = kMostSlabBytes) {
  const Slabs slabs(a, most_bytes);
  char* slab = scratch(resource, slabs.bytes());
  if (!slab) return false;
  const int64_t rows = slabs.strips * kRows;
  for (int64_t begin = 0; begin < a.rows; begin += rows) {
    const float* from = a.data + begin * (a.transposed ? 1 : a.stride);
    const Matrix part = {from, std::min(rows, a.rows - begin), a.depth, a.stride, a.transposed};
    product(part, b, slabs, slab, out + begin * b.rows);
  }
  return true;
}

MXReturnValue result(bool done) {
  return done ? mxnet::ext::MX_SUCCESS : refuse("bert_dense", "out of memory");
}

MXReturnValue forward(const Attributes&, Tensors* inputs, Tensors* outputs,
                      const OpResource& resource) {
  const int64_t rows = (*inputs)[0].shape[0], depth = (*inputs)[0].shape[1];
  const int64_t units = (*inputs)[1].shape[0];
  return result(product({data(inputs, 0), rows, depth, depth, false},
                        {data(inputs, 1), units, depth, depth, false}, data(outputs, 0), resource));
}

// dx = dy W, dW = dy^T x
MXReturnValue backward(const Attributes&, Tensors* inputs, Tensors* outputs,
                       const OpResource& resource) {
  const int64_t rows = (*inputs)[1].shape[0], depth = (*inputs)[1].shape[1];
  const int64_t units = (*inputs)[2].shape[0];
  const float *dy = data(inputs, 0), *x = data(inputs, 1), *weight = data(inputs, 2);
  return result(product({dy, rows, units, units, false}, {weight, depth, units, depth, true},
                        data(outputs, 0), resource) &&
                product({dy, units, rows, units, true}, {x, depth, rows, depth, true},
                        data(outputs, 1), resource));
}

MXReturnValue infer_shape(const Attributes&, Shapes* in, Shapes* out) {
  const std::string wrong = wrong_dimensions(*in, {2, 2});
  if (!wrong.empty()) return refuse("bert_dense", wrong);
  (*in)[1] = {(*in)[1][0], (*in)[0][1]};
  (*out)[0] = {(*in)[0][0], (*in)[1][0]};
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_dense)
    .setForward(forward, "cpu")
    .setBackward(backward, "cpu")
    .setParseAttrs(one_output<2>)
    .setInferType(infer_type<>)
    .setInferShape(infer_shape);

}  // namespace bert
#endif
