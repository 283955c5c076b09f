// What the processor can do at most: products of numbers in registers, on all cores at once. Prints
// GFLOP/s as JSON; 0 for a type that the processor has no units for.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <sys/syscall.h>
#include <unistd.h>

#include "../bert/native/amx.h"
#endif

namespace {

constexpr int kSteps = 20000;
constexpr double kSeconds = 0.4;

// The most GFLOP/s of all threads together; run(n) does n steps of `flops` each.
template <typename Run>
double most(double flops, const Run& run) {
  double sum = 0;
#pragma omp parallel reduction(+ : sum)
  {
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto seconds = [](auto time) { return std::chrono::duration<double>(time).count(); };
    double best = 0;
    for (const auto begin = now(); seconds(now() - begin) < kSeconds;) {
      const auto start = now();
      run(kSteps);
      best = std::max(best, kSteps * flops / seconds(now() - start));
    }
    sum += best;
  }
  return sum / 1e9;
}

// Sums to be added to in turn: more than an addition has cycles.
#if defined(__AVX512F__)
constexpr int kSums = 24, kWidth = 16;
#elif defined(__AVX__)
constexpr int kSums = 12, kWidth = 8;
#else
constexpr int kSums = 24, kWidth = 4;
#endif
#if defined(__x86_64__)
#define REGISTER "v"
#else
#define REGISTER "w"
#endif
typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));

template <typename Add>
void add(int steps, const Add& one) {
  Vec sum[kSums] = {};
  // What the compiler cannot see through happens between two looks at the clock.
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) __asm__ volatile("" : "+" REGISTER(sum[i]));
  for (; steps > 0; --steps) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) one(&sum[i]);
  }
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) __asm__ volatile("" : : REGISTER(sum[i]));
}

double float32() {
  const Vec a = Vec{} + 0.5f, b = Vec{} + 1.0f;
  return most(2.0 * kSums * kWidth, [=](int steps) {
    add(steps, [=](Vec* sum) { *sum = *sum * a + b; });
  });
}

double bfloat16() {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
  if (syscall(SYS_arch_prctl, 0x1023, 18) == 0)  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return most(4 * 2.0 * 16 * 16 * 32, [](int steps) {
      const bert::Tiles tiles;
      for (; steps > 0; --steps) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 7, 5);
        _tile_dpbf16ps(3, 7, 6);
      }
    });
#endif
#if defined(__AVX512BF16__)
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  return most(4.0 * kSums * kWidth, [=](int steps) {
    add(steps, [=](Vec* sum) { *sum = (Vec)_mm512_dpbf16_ps((__m512)*sum, ones, ones); });
  });
#endif
  return 0;
}

}  // namespace

int main() { std::printf("{\"float32\": %.1f, \"bfloat16\": %.1f}\n", float32(), bfloat16()); }
