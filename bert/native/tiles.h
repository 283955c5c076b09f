// Products of small matrices that fit a core's cache, the sums held in vector registers.
#pragma once

#include "common.h"

namespace bert {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));
// As it is in memory. Not for parameters: GCC 14 fails on Arm where they are of such a type.
typedef Vec VecInMemory __attribute__((aligned(sizeof(float)), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const VecInMemory*>(from); }
inline void store(Vec value, float* to) { *reinterpret_cast<VecInMemory*>(to) = value; }

inline int padded(int size) { return (size + kWidth - 1) / kWidth * kWidth; }

// Transposes a square of kWidth vectors.
inline void transpose(Vec* lines) {
  typedef int32_t Order __attribute__((vector_size(kWidth * sizeof(int32_t))));
  Order low, high;  // the first halves of two vectors, one element of each in turn; the second ones
  for (int i = 0; i < kWidth; ++i) {
    low[i] = i / 2 + i % 2 * kWidth;
    high[i] = low[i] + kWidth / 2;
  }
  Vec next[kWidth];
  for (int turn = 1; turn < kWidth; turn *= 2) {
    for (int i = 0; i < kWidth / 2; ++i) {
      next[2 * i] = __builtin_shuffle(lines[i], lines[i + kWidth / 2], low);
      next[2 * i + 1] = __builtin_shuffle(lines[i], lines[i + kWidth / 2], high);
    }
    std::copy_n(next, kWidth, lines);
  }
}

// A left operand, as it is or transposed: element (i, k) is data[i * row + k * column].
struct Left {
  const float* data;
  int row, column;
};

// C[MR, NV vectors] = or += A[MR, K] B[K, NV vectors].
template <int MR, int NV, bool kAdd>
void tile(int K, const Left& a, const float* b, int ldb, float* c, int ldc) {
  Vec sum[MR][NV] = {};
  const float* element = a.data;
  for (int k = 0; k < K; ++k, element += a.column, b += ldb) {
    Vec row[NV];
    for (int j = 0; j < NV; ++j) row[j] = load(b + j * kWidth);
    for (int i = 0; i < MR; ++i)
      for (int j = 0; j < NV; ++j) sum[i][j] += element[i * a.row] * row[j];
  }
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NV; ++j) {
      float* to = c + i * ldc + j * kWidth;
      store(kAdd ? load(to) + sum[i][j] : sum[i][j], to);
    }
}

constexpr int kTileRows = 6;

template <int NV, bool kAdd>
void column_of_tiles(int M, int K, Left a, const float* b, int ldb, float* c, int ldc) {
  for (; M >= kTileRows; M -= kTileRows, a.data += kTileRows * a.row, c += kTileRows * ldc)
    tile<kTileRows, NV, kAdd>(K, a, b, ldb, c, ldc);
  switch (M) {
    case 5: return tile<5, NV, kAdd>(K, a, b, ldb, c, ldc);
    case 4: return tile<4, NV, kAdd>(K, a, b, ldb, c, ldc);
    case 3: return tile<3, NV, kAdd>(K, a, b, ldb, c, ldc);
    case 2: return tile<2, NV, kAdd>(K, a, b, ldb, c, ldc);
    case 1: return tile<1, NV, kAdd>(K, a, b, ldb, c, ldc);
  }
}

// C[M, N] = or += A[M, K] B[K, N]; N, ldb and ldc are multiples of kWidth.
template <bool kAdd = false>
void multiply(int M, int N, int K, const Left& a, const float* b, int ldb, float* c, int ldc) {
  constexpr int kColumns = kWidth == 16 ? 4 : 2;  // vectors a tile is wide: what registers hold
  int j = 0;
  for (; j + kColumns * kWidth <= N; j += kColumns * kWidth)
    column_of_tiles<kColumns, kAdd>(M, K, a, b + j, ldb, c + j, ldc);
  if (j + 2 * kWidth <= N) {
    column_of_tiles<2, kAdd>(M, K, a, b + j, ldb, c + j, ldc);
    j += 2 * kWidth;
  }
  if (j < N) column_of_tiles<1, kAdd>(M, K, a, b + j, ldb, c + j, ldc);
}

}  // namespace bert
