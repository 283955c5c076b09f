// Multi-head attention on packed rows, forward and backward, of numbers in float32 or bfloat16;
// everything between is float32. See attention.cc.
//
// A thread takes one head of one pair at a time, and of that a block of queries, whose matrices fit
// its cache. The probabilities are kept for backward (in bfloat16), or computed again: in float32
// that is cheaper than writing and reading them.
#pragma once

#include "softmax.h"

namespace bert {

inline float value_of(float number) { return number; }
inline float value_of(uint16_t number) { return BFloat16::value(number); }
inline void set(float value, float* to) { *to = value; }
inline void set(float value, uint16_t* to) { *to = BFloat16::number(value); }

inline Vec load(const uint16_t* from) {
#if defined(__AVX512BF16__)
  const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16);
#else
  Vec result;
  for (int i = 0; i < kWidth; ++i) result[i] = BFloat16::value(from[i]);
  return result;
#endif
}

inline void store(Vec value, uint16_t* to) {
  alignas(64) float numbers[kWidth];
  std::memcpy(numbers, &value, sizeof numbers);
  BFloat16::store(numbers, kWidth, to);
}

template <typename Number>
void copy_row(const float* from, int count, Number* to) {
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) store(load(from + i), to + i);
  for (; i < count; ++i) set(from[i], to + i);
}

constexpr int kQueries = 60;  // the most that a block has; a multiple of kTileRows

template <typename Number>
struct Batch {
  const Number *q, *k, *v;  // row 0 of head 0
  const float* bias;        // [3 units]
  const int32_t* offsets;
  int64_t q_stride, kv_stride, pairs, tokens;
  int units, heads;
  bool cls;
  Dropout dropout;

  int depth() const { return units / heads; }
  int length(int64_t pair) const { return offsets[pair + 1] - offsets[pair]; }
  int64_t first_query(int64_t pair) const { return cls ? pair : offsets[pair]; }
  int queries(int64_t pair) const { return cls ? 1 : length(pair); }

  // Wrong offsets would read, and in backward write, somebody else's memory. MXNet runs backward
  // even where forward has failed, so both ask. Offsets that rise from 0 have no difference that
  // exceeds an int.
  const char* find_complaint() const {
    bool rise = offsets[0] == 0 && offsets[pairs] == tokens;
    for (int64_t pair = 0; pair < pairs; ++pair) rise &= offsets[pair] < offsets[pair + 1];
    if (!rise) return "offsets do not rise from 0 to the number of tokens";
    for (int64_t pair = 0; pair < pairs; ++pair)
      if (length(pair) > int{kMost}) return "a pair has more than 65536 tokens";
    return nullptr;
  }

  // How many probabilities a pair's heads have, each row filled up to whole vectors; the sums of
  // these numbers: where each pair's probabilities are, if all are kept.
  std::vector<int64_t> places() const {
    std::vector<int64_t> places = {0};
    for (int64_t pair = 0; pair < pairs; ++pair)
      places.push_back(places.back() + heads * int64_t{queries(pair)} * padded(length(pair)));
    return places;
  }

  // Where in the list of all heads of all pairs each thread's share begins: shares of equal cost.
  std::vector<int64_t> shares(int threads) const {
    std::vector<double> cost(pairs + 1);
    for (int64_t pair = 0; pair < pairs; ++pair)
      cost[pair + 1] = cost[pair] + length(pair) * (queries(pair) + 10.0);
    std::vector<int64_t> begin(threads + 1, pairs * heads);
    int64_t pair = 0;
    for (int thread = 0; thread < threads; ++thread) {
      const double wanted = cost[pairs] * thread / threads;
      while (pair + 1 < pairs && cost[pair + 1] <= wanted) ++pair;
      const double of_pair = std::max(cost[pair + 1] - cost[pair], 1.0);
      begin[thread] = pair * heads + std::min<int64_t>(heads, heads * (wanted - cost[pair]) / of_pair);
    }
    return begin;
  }
};

// One head of one pair, in a thread's own memory: L keys and values of D numbers, and a block of Lq
// queries, their rows padded to whole vectors (Dp, Lp).
struct Head {
  int Lq, L, D, Lp, Dp;
  std::vector<float> q, k, k_t, v, v_t, p, pd, dp, dout, dq, dk, dv, per_row, zeros;

  explicit Head(int depth) : D(depth), Dp(padded(depth)), zeros(depth) {}

  // to = (from + bias) scale, [count, D]
  template <typename Number>
  void copy(const Number* from, int64_t stride, const float* bias, int count, float scale,
            std::vector<float>* to) const {
    to->resize(count * Dp);
    float* row = to->data();
    for (int i = 0; i < count; ++i, row += Dp, from += stride) {
      int d = 0;
      for (; d + kWidth <= D; d += kWidth) {
        __builtin_prefetch(from + D + d);
        bert::store((bert::load(from + d) + bert::load(bias + d)) * scale, row + d);
      }
      for (; d < D; ++d) row[d] = (value_of(from[d]) + bias[d]) * scale;
    }
  }

  // The columns behind L are zeros: products with them are computed, and must be finite.
  void transpose(const std::vector<float>& from, std::vector<float>* to) const {
    to->resize(Dp * Lp);
    for (int row = 0; row < L; row += kWidth)
      for (int column = 0; column < D; column += kWidth) {
        Vec lines[kWidth] = {};
        for (int i = 0; i < std::min(kWidth, L - row); ++i)
          lines[i] = bert::load(&from[(row + i) * Dp + column]);
        bert::transpose(lines);
        for (int i = 0; i < kWidth; ++i)
          bert::store(lines[i], to->data() + (column + i) * Lp + row);
      }
  }

  template <typename Number>
  void load_keys(const Batch<Number>& batch, int64_t pair, int head) {
    L = batch.length(pair), Lp = padded(L);
    const int64_t row = batch.offsets[pair] * batch.kv_stride + head * D;
    const float* bias = batch.bias + head * D;
    copy(batch.k + row, batch.kv_stride, bias + batch.units, L, 1.0f, &k);
    copy(batch.v + row, batch.kv_stride, bias + 2 * batch.units, L, 1.0f, &v);
  }

  template <typename Number>
  void load_queries(const Batch<Number>& batch, int64_t row, int count, int head) {
    Lq = count;
    copy(batch.q + row * batch.q_stride + head * D, batch.q_stride, batch.bias + head * D, Lq,
         1.0f / std::sqrt(1.0f * D), &q);
  }

  // pd = dropout(p), p = softmax(q k^T / sqrt(D)). p is kept here if asked for, and behind `kept`,
  // if there is such a place: negative where it is dropped.
  template <typename Number>
  void probabilities(const Dropout& dropout, int64_t task, int first_query, bool keep,
                     Number* kept_rows) {
    pd.resize(Lq * Lp);
    per_row.resize(Lq);
    multiply(Lq, Lp, D, {q.data(), Dp, 1}, k_t.data(), Lp, pd.data(), Lp);
    // Whole vectors, which the compiler sees: no loop below has a remainder.
    const int rows = Lq, columns = Lp / kWidth * kWidth;
    float *const dropped = pd.data(), *const scale = per_row.data();
    exponentials(dropped, rows, L, 1.0f, scale);
    p.resize(Lq * Lp);
    float* const own = p.data();
    if (keep) {
      for (int i = 0; i < rows; ++i) {
        const float* row = dropped + i * columns;
        float* kept = &p[i * columns];
#pragma omp simd
        for (int j = 0; j < columns; ++j) kept[j] = row[j] * scale[i];
      }
    }
    if (kept_rows) {
      dropout.with_mask(task, [=](auto mask) {
        for (int i = 0; i < rows; ++i) {
          float* row = dropped + i * columns;
          float* kept = own;
          const uint32_t index = static_cast<uint32_t>(first_query + i) << 16;
          const float factor = scale[i];
#pragma omp simd
          for (int j = 0; j < columns; ++j) {
            const float probability = row[j] * factor, m = mask(index + j);
            kept[j] = m == 0 ? -probability : probability;
            row[j] = probability * m;
          }
          for (int j = 0; j < columns; j += kWidth)
            bert::store(bert::load(kept + j), kept_rows + i * columns + j);
        }
      });
      return;
    }
    dropout.with_mask(task, [=](auto mask) {
      for (int i = 0; i < rows; ++i) {
        float* row = dropped + i * columns;
        const uint32_t index = static_cast<uint32_t>(first_query + i) << 16;
        const float factor = scale[i];
#pragma omp simd
        for (int j = 0; j < columns; ++j) row[j] *= factor * mask(index + j);
      }
    });
  }

  // The same from what was kept.
  template <typename Number>
  void recall(const Dropout& dropout, const Number* kept_rows) {
    const int size = Lq * Lp;
    per_row.resize(Lq);
    p.resize(size);
    pd.resize(size);
    float *const all = p.data(), *const dropped = pd.data();
    const float factor = dropout.scale();
    for (int i = 0; i < size; i += kWidth) bert::store(bert::load(kept_rows + i), all + i);
#pragma omp simd
    for (int i = 0; i < size; ++i) {
      const float kept = all[i];
      dropped[i] = kept < 0 ? 0.0f : kept * factor;
      all[i] = std::fabs(kept);
    }
  }

  // dp, given as do v^T without dropout, becomes ds. With f 0 or 1 / (1 - rate), p dp is
  // pd (do v^T), and needs no second look at the mask.
  void softmax_backward() {
    const int rows = Lq, columns = Lp / kWidth * kWidth;
    float *const ds = dp.data(), *const totals = per_row.data();
    const float *const dropped = pd.data(), *const kept = p.data();
    for (int i = 0; i < rows; ++i) {
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (int j = 0; j < columns; ++j)
        total += ds[i * columns + j] * dropped[i * columns + j];
      totals[i] = total;
    }
    for (int i = 0; i < rows; ++i) {
      const float total = totals[i];
#pragma omp simd
      for (int j = i * columns; j < (i + 1) * columns; ++j)
        ds[j] = ds[j] * dropped[j] - kept[j] * total;
    }
  }

  // to = from scale, [count, D], added up in `sum` [D].
  template <typename Number>
  void store(const std::vector<float>& from, int count, float scale, Number* to, int64_t stride,
             float* sum) const {
    const float* row = from.data();
    for (int i = 0; i < count; ++i, row += Dp, to += stride) {
      int d = 0;
      for (; d + kWidth <= D; d += kWidth) {
        const Vec value = bert::load(row + d) * scale;
        __builtin_prefetch(to + D + d, 1);
        bert::store(value, to + d);
        bert::store(bert::load(sum + d) + value, sum + d);
      }
      for (; d < D; ++d) {
        const float value = row[d] * scale;
        set(value, to + d);
        sum[d] += value;
      }
    }
  }
};

// Calls work(first query, how many) for each block of a pair's queries.
template <typename Work>
void for_blocks(int queries, const Work& work) {
  const int blocks = (queries + kQueries - 1) / kQueries;
  const int size = (queries + blocks - 1) / blocks;
  for (int first = 0; first < queries; first += size)
    work(first, std::min(size, queries - first));
}

// What one of the threads does; row i of the context is at out + i * stride. The probabilities are
// written to `kept`, if there is such a place, for attend_backward.
template <typename Number>
void attend(const Batch<Number>& batch, int thread, int threads, Number* out, int64_t stride,
            Number* kept = nullptr) {
  const int D = batch.depth();
  Head h(D);
  std::vector<float> context(kQueries * h.Dp);
  const std::vector<int64_t> shares = batch.shares(threads), places = batch.places();
  for (int64_t task = shares[thread]; task < shares[thread + 1]; ++task) {
    const int64_t pair = task / batch.heads;
    const int head = task % batch.heads;
    h.load_keys(batch, pair, head);
    h.transpose(h.k, &h.k_t);
    for_blocks(batch.queries(pair), [&](int first, int count) {
      const int64_t row = batch.first_query(pair) + first;
      h.load_queries(batch, row, count, head);
      const int64_t place = places[pair] + (head * batch.queries(pair) + first) * h.Lp;
      h.probabilities(batch.dropout, task, first, false, kept ? kept + place : nullptr);
      multiply(count, h.Dp, h.L, {h.pd.data(), h.Lp, 1}, h.v.data(), h.Dp, context.data(), h.Dp);
      for (int i = 0; i < count; ++i)
        copy_row(&context[i * h.Dp], D, out + (row + i) * stride + head * D);
    });
  }
}

// With p the probabilities, f the dropout's factors, o the output:
//   dv = (p f)^T do,  dp = (do v^T) f,  ds = p (dp - rowsum(p dp)),  dq = ds k,  dk = ds^T q.
// What one of the threads does; adds to dbias [3 units].
template <typename Number>
void attend_backward(const Batch<Number>& batch, int thread, int threads, const Number* dout,
                     int64_t stride, Number* dq, Number* dk, Number* dv, float* dbias,
                     const Number* kept = nullptr) {
  const int D = batch.depth(), units = batch.units;
  const float scale = 1.0f / std::sqrt(1.0f * D);
  Head h(D);
  const std::vector<int64_t> shares = batch.shares(threads), places = batch.places();
  for (int64_t task = shares[thread]; task < shares[thread + 1]; ++task) {
    const int64_t pair = task / batch.heads;
    const int head = task % batch.heads;
    float* sum = dbias + head * D;
    h.load_keys(batch, pair, head);
    h.transpose(h.v, &h.v_t);
    if (!kept) h.transpose(h.k, &h.k_t);
    h.dk.assign(h.L * h.Dp, 0.0f);
    h.dv.assign(h.L * h.Dp, 0.0f);
    for_blocks(batch.queries(pair), [&](int first, int count) {
      const int64_t row = batch.first_query(pair) + first;
      h.load_queries(batch, row, count, head);
      h.copy(dout + row * stride + head * D, stride, h.zeros.data(), count, 1.0f, &h.dout);
      if (kept) {
        const int64_t place = places[pair] + (head * batch.queries(pair) + first) * h.Lp;
        h.recall(batch.dropout, kept + place);
      } else {
        h.probabilities<float>(batch.dropout, task, first, true, nullptr);
      }
      h.dp.resize(count * h.Lp);
      multiply(count, h.Lp, D, {h.dout.data(), h.Dp, 1}, h.v_t.data(), h.Lp, h.dp.data(), h.Lp);
      multiply<true>(h.L, h.Dp, count, {h.pd.data(), 1, h.Lp}, h.dout.data(), h.Dp, h.dv.data(),
                     h.Dp);
      h.softmax_backward();
      h.dq.resize(count * h.Dp);
      multiply(count, h.Dp, h.L, {h.dp.data(), h.Lp, 1}, h.k.data(), h.Dp, h.dq.data(), h.Dp);
      multiply<true>(h.L, h.Dp, count, {h.dp.data(), 1, h.Lp}, h.q.data(), h.Dp, h.dk.data(), h.Dp);
      h.store(h.dq, count, scale, dq + row * batch.q_stride + head * D, batch.q_stride, sum);
    });
    const int64_t row = batch.offsets[pair] * batch.kv_stride + head * D;
    h.store(h.dk, h.L, 1.0f, dk + row, batch.kv_stride, sum + units);
    h.store(h.dv, h.L, 1.0f, dv + row, batch.kv_stride, sum + 2 * units);
  }
}

// Return what is wrong with the number of heads; empty if nothing is.
inline std::string wrong_heads(const Attributes& attributes, unsigned units) {
  const int heads = integer(attributes, "heads");
  if (heads > 0 && units % heads == 0) return "";
  return std::to_string(units) + " columns cannot be divided among " + std::to_string(heads) +
         " heads";
}

}  // namespace bert
