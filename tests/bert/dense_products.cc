// Products of dense.cc of odd shapes, compared with float64: for test_native_dense.py.
#include "software_tiles.h"
//
#include "dense.cc"

#include <cstdio>
#include <cstdlib>
#include <random>

namespace {

void* allocate(void* last, int bytes) {  // exactly what is asked for
  if (bytes <= 0) std::abort();
  std::free(*static_cast<void**>(last));
  return *static_cast<void**>(last) = std::malloc(bytes);
}

// Multiplies [rows, depth] by [units, depth], either of them transposed or not; returns the largest
// error, relative to the sum of the products' sizes. Within `most_bytes`, the rows need several parts.
double error(int64_t rows, int64_t depth, int64_t units, int transposed, int64_t most_bytes) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const bool left = transposed & 1, right = transposed & 2;
  std::vector<float> a(rows * depth), b(units * depth), out(rows * units);
  for (float& x : a) x = normal(generator);
  for (float& x : b) x = normal(generator);
  void* memory = nullptr;
  const mxnet::ext::OpResource resource(allocate, &memory, nullptr, nullptr, nullptr, nullptr,
                                        nullptr, nullptr, nullptr);
  if (!bert::product({a.data(), rows, depth, left ? rows : depth, left},
                     {b.data(), units, depth, right ? units : depth, right}, out.data(), resource,
                     most_bytes))
    std::abort();
  std::free(memory);
  double largest = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t u = 0; u < units; ++u) {
      double sum = 0, size = 0;
      for (int64_t d = 0; d < depth; ++d) {
        const double x = a[left ? d * rows + r : r * depth + d];
        const double product = x * b[right ? d * units + u : u * depth + d];
        sum += product;
        size += std::fabs(product);
      }
      largest = std::max(largest, std::fabs(out[r * units + u] - sum) / size);
    }
  return largest;
}

}  // namespace

int main() {
  double largest = 0;
  for (int64_t rows : {1, 33, 97})
    for (int64_t depth : {1, 33, 769})
      for (int64_t units : {1, 65})
        for (int transposed = 0; transposed < 4; ++transposed)
          for (int64_t most_bytes : {int64_t{1}, bert::kMostSlabBytes})
            largest = std::max(largest, error(rows, depth, units, transposed, most_bytes));
  int64_t most = 0;
  for (int64_t rows : {1, 466000, 932000, 1048576, 2147483647})
    for (int64_t depth : {1, 768, 1536, 3072, 2147483647}) {
      const bert::Matrix a = {nullptr, rows, depth, depth, false};
      most = std::max(most, bert::Slabs(a, bert::kMostSlabBytes).bytes());
    }
  std::printf("%g %lld\n", largest, static_cast<long long>(most));
}
