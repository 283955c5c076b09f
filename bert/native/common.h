// What the fused operators share: attributes, threads, dropout, vector arithmetic.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "mxnet/lib_api.h"

namespace bert {

using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;
using Attributes = std::unordered_map<std::string, std::string>;
using Tensors = std::vector<MXTensor>;
using Shapes = std::vector<std::vector<unsigned int>>;
using Types = std::vector<int>;

inline int integer(const Attributes& attributes, const char* name) {
  return std::stoi(attributes.at(name));
}

// The rows that thread `thread` of `threads` works on: contiguous, so that sums over rows, taken
// per thread and then added in the threads' order, are the same in every run.
struct Range {
  int64_t begin, end;
  Range(int64_t size, int thread, int threads)
      : begin(size * thread / threads), end(size * (thread + 1) / threads) {}
};

// Adds the threads' partial column sums, [threads][columns], in the threads' order.
inline void add_partial_sums(const std::vector<float>& partial, int threads, int64_t columns,
                             float* sum) {
  std::copy_n(partial.begin(), columns, sum);
  for (int thread = 1; thread < threads; ++thread)
    for (int64_t c = 0; c < columns; ++c) sum[c] += partial[thread * columns + c];
}

// e^x to about 1e-7 relative: 2^n p(r) with |r| <= ln(2)/2 (Cody and Waite). Without branches, so
// that a loop over it becomes vector code.
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = __builtin_floorf(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// A 32-bit finaliser (Murmur3's): every input bit changes every output bit with probability 1/2.
inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ (x >> 16);
}

// Dropout by counter: whether an element is kept is a hash of the step's seed, the place in the
// network and the element's index. Backward computes it again; nothing is stored, and the number
// of threads does not matter. A rate of 0 (evaluation) keeps everything.
struct Dropout {
  uint32_t key;
  uint32_t threshold;  // of 2^24: the share that is dropped
  float scale;         // 1 / (1 - rate)

  // `state` is the operators' input [2]: the seed, and the rate times 2^24.
  Dropout(const int32_t* state, int site)
      : key(mix(mix(static_cast<uint32_t>(state[0])) ^ (0x9e3779b9u * (site + 1)))),
        threshold(static_cast<uint32_t>(state[1])),
        scale(1.0f / (1.0f - threshold / 16777216.0f)) {}

  bool active() const { return threshold != 0; }

  // 0 or 1 / (1 - rate) for element `index` of block `block`.
  uint32_t block_key(uint32_t block) const { return mix(key + 0x9e3779b9u * block); }
  float factor(uint32_t block_key, uint32_t index) const {
    return (mix(index * 0x9e3779b1u ^ block_key) >> 8) < threshold ? 0.0f : scale;
  }
};

// Every operator here has one output, and inputs of which all are float32 but those listed.
template <int... int_inputs>
MXReturnValue infer_type(const Attributes&, Types* in, Types* out) {
  std::fill(in->begin(), in->end(), mxnet::ext::kFloat32);
  for (int input : std::initializer_list<int>{int_inputs...}) (*in)[input] = mxnet::ext::kInt32;
  std::fill(out->begin(), out->end(), mxnet::ext::kFloat32);
  return mxnet::ext::MX_SUCCESS;
}

template <int num_inputs>
MXReturnValue one_output(const Attributes&, int* inputs, int* outputs) {
  *inputs = num_inputs;
  *outputs = 1;
  return mxnet::ext::MX_SUCCESS;
}

template <typename T = float>
T* data(Tensors* tensors, int index) {
  return (*tensors)[index].data<T>();
}

}  // namespace bert
