// What the fused operators share: attributes, threads, dropout, vector arithmetic.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <locale>
#include <sstream>
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

// An attribute; 0 if it is missing or no such number: MXNet does not catch exceptions. Not std::stof:
// where a process has set a locale with decimal commas, it reads 0.999 as 0.
template <typename Number>
Number attribute(const Attributes& attributes, const char* name) {
  const auto found = attributes.find(name);
  std::istringstream text(found == attributes.end() ? "" : found->second);
  text.imbue(std::locale::classic());
  Number value = 0;
  return text >> value ? value : 0;
}

inline int integer(const Attributes& attributes, const char* name) {
  return attribute<int>(attributes, name);
}

inline float number(const Attributes& attributes, const char* name) {
  return attribute<float>(attributes, name);
}

// The most columns of a matrix, and the most tokens of a pair. MXNet's arrays have less than 2^31
// elements; with these bounds, nothing that is computed in int exceeds it.
constexpr unsigned kMost = 1 << 16;

// Tells MXNet that an operator's input is wrong.
inline MXReturnValue refuse(const char* name, const std::string& complaint) {
  MX_ERROR_MSG << name << ": " << complaint;
  return mxnet::ext::MX_FAIL;
}

// Return what is wrong with the inputs' dimensions, of which there must be so many; empty if nothing
// is. It must be asked before a size is read. (Sizes that a shape function sets MXNet compares.)
inline std::string wrong_dimensions(const Shapes& in, std::initializer_list<size_t> wanted) {
  const size_t* count = wanted.begin();
  for (size_t i = 0; i < in.size(); ++i, ++count) {
    const std::string input = "input " + std::to_string(i) + " has ";
    if (in[i].size() != *count)
      return input + std::to_string(in[i].size()) + " dimensions, not " + std::to_string(*count);
    if (*count == 2 && in[i][1] > kMost)
      return input + std::to_string(in[i][1]) + " columns, more than " + std::to_string(kMost);
  }
  return "";
}

// Memory of an operator until it returns, aligned for vectors; null if there is not enough. MXNet
// takes the size as an int.
inline char* scratch(const OpResource& resource, int64_t bytes) {
  bytes += 64;
  if (bytes > INT32_MAX) return nullptr;
  char* memory = static_cast<char*>(resource.alloc_cpu(bytes));
  return memory ? memory + -reinterpret_cast<uintptr_t>(memory) % 64 : nullptr;
}

// The rows that the calling thread of a parallel region works on: contiguous, so that sums over
// rows, taken per thread and then added in the threads' order, are the same in every run. The
// region may have fewer threads than omp_get_max_threads() (OMP_THREAD_LIMIT, OMP_DYNAMIC).
struct Share {
  int64_t begin, end;
  Share(int64_t size, int index, int count)
      : begin(size * index / count), end(size * (index + 1) / count) {}
  explicit Share(int64_t size) : Share(size, omp_get_thread_num(), omp_get_num_threads()) {}
};

// Sums over rows, [columns]: a row of zeros for each thread there can be, added up in order.
class ColumnSums {
 public:
  explicit ColumnSums(int64_t columns)
      : columns_(columns), stride_(columns + 16), sums_(omp_get_max_threads() * stride_) {}

  float* mine() { return &sums_[omp_get_thread_num() * stride_]; }

  void store(float* to) const {
    std::copy_n(sums_.begin(), columns_, to);
    for (size_t thread = stride_; thread < sums_.size(); thread += stride_)
      for (int64_t c = 0; c < columns_; ++c) to[c] += sums_[thread + c];
  }

 private:
  int64_t columns_;
  size_t stride_;  // a cache line apart: threads that write to the same one wait for each other
  std::vector<float> sums_;
};

// e^x for x <= 0, to about 1e-7 relative: 2^n p(r) with |r| <= ln(2)/2 (Cody and Waite). Without
// branches, so that a loop over it becomes vector code.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;  // in this order, nan stays nan
  const float n = __builtin_rintf(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
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
// of threads does not matter. A rate of 0 (evaluation) keeps everything, and hashes nothing.
class Dropout {
 public:
  // What element `index` of one block is multiplied by: 0 or 1 / (1 - rate). To be held by value:
  // a loop that reads its members through a pointer does not become vector code.
  class Mask {
   public:
    float operator()(uint32_t index) const {
      return static_cast<int32_t>(mix(index * 0x9e3779b1u ^ key_) >> 8) < threshold_ ? 0.0f
                                                                                     : scale_;
    }

   private:
    friend class Dropout;
    Mask(uint32_t key, int32_t threshold, float scale)
        : key_(key), threshold_(threshold), scale_(scale) {}
    uint32_t key_;
    int32_t threshold_;  // of 2^24: the share that is dropped
    float scale_;
  };

  struct NoMask {
    float operator()(uint32_t) const { return 1.0f; }
  };

  // `state` is the operators' input [2]: the seed, and the rate times 2^24.
  Dropout(const int32_t* state, int site)
      : key_(mix(mix(static_cast<uint32_t>(state[0])) ^ (0x9e3779b9u * (site + 1)))),
        threshold_(state[1]),
        scale_(1.0f / (1.0f - threshold_ / 16777216.0f)) {}

  // What is kept is multiplied by it.
  float scale() const { return scale_; }

  // Calls `work` with the mask of a block, in one of the two types.
  template <typename Work>
  void with_mask(uint32_t block, const Work& work) const {
    if (threshold_ == 0)
      work(NoMask());
    else
      work(Mask(mix(key_ + 0x9e3779b9u * block), threshold_, scale_));
  }

 private:
  uint32_t key_;
  int32_t threshold_;
  float scale_;
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
