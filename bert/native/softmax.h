// The exponentials of softmax, in training and inference.
#pragma once

#include "packed.h"

namespace bert {

// Replaces scores [rows, columns] by their exponentials, whose sums become 1 / `scale`. Row after
// row would wait for each row's largest element and sum; loop after loop, the rows overlap.
inline void exponentials(float* scores, int rows, int length, float factor, float* scale) {
  const int columns = padded(length) / kWidth * kWidth;  // whole vectors, which the compiler sees
  for (int i = 0; i < rows; ++i) {
    float* row = scores + i * columns;
    float largest = -1e30f;
#pragma omp simd reduction(max : largest)
    for (int j = 0; j < columns; ++j) {
      const float score = j < length ? row[j] * factor : -1e30f;
      row[j] = score;
      largest = score > largest ? score : largest;
    }
    scale[i] = largest;
  }
  for (int i = 0; i < rows; ++i) {
    float* row = scores + i * columns;
    const float largest = scale[i];
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int j = 0; j < columns; ++j) {
      const float e = exponential(row[j] - largest);
      row[j] = e;
      total += e;
    }
    scale[i] = 1.0f / total;
  }
}

}  // namespace bert
