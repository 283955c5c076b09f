// Multi-head attention on packed rows (Vaswani et al. 2017, equation 1): the tokens of all pairs
// stand one after the other, pair b in rows offsets[b] to offsets[b + 1], and nothing is padded.
//
// bert_attention: every token attends to its pair.
//   Inputs: qkv [tokens, 3 units] (the dense layers' outputs without bias), bias [3 units],
//   offsets [pairs + 1] int32, dropout [2] int32. Output [tokens, units].
// bert_cls_attention: only each pair's first token does, which is all the last layer needs.
//   Inputs: q [pairs, units], kv [tokens, 2 units], bias [3 units], offsets, dropout.
//   Output [pairs, units].
// Attributes: heads, site (which dropout of the network).
//
// A thread takes one head of one pair at a time, whose matrices fit its cache. Backward computes
// the probabilities again: that is cheaper than writing and reading them.
#include "common.h"

namespace bert {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float Vec __attribute__((vector_size(kWidth * sizeof(float)), aligned(sizeof(float))));

int padded(int size) { return (size + kWidth - 1) / kWidth * kWidth; }

// C[MR, NV vectors] = A[MR, K] B[K, NV vectors], the sums held in registers. Element (i, k) of A
// is a[i * row_stride + k * column_stride], so that a transposed A needs no copy.
template <int MR, int NV>
void tile(int K, const float* a, int row_stride, int column_stride, const float* b, int ldb,
          float* c, int ldc) {
  Vec sum[MR][NV] = {};
  for (int k = 0; k < K; ++k) {
    Vec row[NV];
    for (int j = 0; j < NV; ++j)
      row[j] = *reinterpret_cast<const Vec*>(b + k * ldb + j * kWidth);
    for (int i = 0; i < MR; ++i) {
      const float x = a[i * row_stride + k * column_stride];
      for (int j = 0; j < NV; ++j) sum[i][j] += x * row[j];
    }
  }
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NV; ++j) *reinterpret_cast<Vec*>(c + i * ldc + j * kWidth) = sum[i][j];
}

template <int NV>
void rows_of_tiles(int M, int K, const float* a, int row_stride, int column_stride, const float* b,
                   int ldb, float* c, int ldc) {
  int i = 0;
  for (; i + 6 <= M; i += 6)
    tile<6, NV>(K, a + i * row_stride, row_stride, column_stride, b, ldb, c + i * ldc, ldc);
  for (; i + 2 <= M; i += 2)
    tile<2, NV>(K, a + i * row_stride, row_stride, column_stride, b, ldb, c + i * ldc, ldc);
  for (; i < M; ++i)
    tile<1, NV>(K, a + i * row_stride, row_stride, column_stride, b, ldb, c + i * ldc, ldc);
}

// C[M, N] = A[M, K] B[K, N]; N, ldb and ldc are multiples of kWidth.
void multiply(int M, int N, int K, const float* a, int row_stride, int column_stride,
              const float* b, int ldb, float* c, int ldc) {
  constexpr int kColumns = kWidth == 16 ? 4 : 2;  // vectors a tile is wide: what registers hold
  int j = 0;
  for (; j + kColumns * kWidth <= N; j += kColumns * kWidth)
    rows_of_tiles<kColumns>(M, K, a, row_stride, column_stride, b + j, ldb, c + j, ldc);
  for (; j + 2 * kWidth <= N; j += 2 * kWidth)
    rows_of_tiles<2>(M, K, a, row_stride, column_stride, b + j, ldb, c + j, ldc);
  for (; j < N; j += kWidth)
    rows_of_tiles<1>(M, K, a, row_stride, column_stride, b + j, ldb, c + j, ldc);
}

// Where queries, keys and values stand: pointers to row 0, and the rows' distance.
struct Source {
  const float *q, *k, *v;
  const float* bias;
  int64_t q_stride, kv_stride;
};

// One head of one pair, in a thread's own memory: Lq queries, L keys and values of D numbers, and
// their matrices with rows padded by zeros to whole vectors (Dp, Lp).
struct Head {
  int Lq, L, D, Lp, Dp;
  std::vector<float> q, k, k_t, v, v_t, p, pd, dp, dout, dq, dk, dv;

  void size(int queries, int tokens, int depth) {
    Lq = queries, L = tokens, D = depth;
    Lp = padded(L), Dp = padded(D);
  }

  // Copies rows [count, D] plus bias, times scale, padded; the tail stays zero.
  void load(std::vector<float>* to, const float* from, int64_t stride, const float* bias,
            int count, float scale) const {
    to->assign(count * Dp, 0.0f);
    for (int i = 0; i < count; ++i)
      for (int d = 0; d < D; ++d)
        (*to)[i * Dp + d] = (from[i * stride + d] + (bias ? bias[d] : 0.0f)) * scale;
  }

  void transpose(const std::vector<float>& from, std::vector<float>* to) const {
    to->assign(Dp * Lp, 0.0f);
    for (int i = 0; i < L; ++i)
      for (int d = 0; d < D; ++d) (*to)[d * Lp + i] = from[i * Dp + d];
  }

  void load(const Source& s, int64_t q_row, int64_t row, int head) {
    const int64_t column = static_cast<int64_t>(head) * D;
    const int units = s.v - s.k;
    const float* bias = s.bias + column;
    load(&q, s.q + q_row * s.q_stride + column, s.q_stride, bias, Lq, 1.0f / std::sqrt(1.0f * D));
    load(&k, s.k + row * s.kv_stride + column, s.kv_stride, bias + units, L, 1.0f);
    load(&v, s.v + row * s.kv_stride + column, s.kv_stride, bias + 2 * units, L, 1.0f);
    transpose(k, &k_t);
  }

  // p = softmax(q k^T / sqrt(D)), 0 behind column L; pd = dropout(p).
  void probabilities(const Dropout& dropout, uint32_t key) {
    p.resize(Lq * Lp);
    pd.resize(Lq * Lp);
    multiply(Lq, Lp, D, q.data(), Dp, 1, k_t.data(), Lp, p.data(), Lp);
    for (int i = 0; i < Lq; ++i) {
      float *row = &p[i * Lp], *dropped = &pd[i * Lp];
      float largest = row[0], total = 0;
#pragma omp simd reduction(max : largest)
      for (int j = 0; j < L; ++j) largest = std::max(largest, row[j]);
#pragma omp simd reduction(+ : total)
      for (int j = 0; j < L; ++j) {
        row[j] = exponential(row[j] - largest);
        total += row[j];
      }
      const float inverse = 1.0f / total;
#pragma omp simd
      for (int j = 0; j < L; ++j) row[j] *= inverse;
      std::fill(row + L, row + Lp, 0.0f);
      std::copy(row, row + Lp, dropped);
      if (dropout.active()) {
#pragma omp simd
        for (int j = 0; j < L; ++j) dropped[j] *= dropout.factor(key, (i << 16) + j);
      }
    }
  }
};

void attend(const Source& source, const int32_t* offsets, int64_t pairs, int heads, int units,
            bool cls, const Dropout& dropout, float* out) {
  const int D = units / heads;
#pragma omp parallel
  {
    Head h;
    std::vector<float> context;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < pairs * heads; ++task) {
      const int64_t pair = task / heads;
      const int head = task % heads, L = offsets[pair + 1] - offsets[pair];
      const int64_t q_row = cls ? pair : offsets[pair];
      h.size(cls ? 1 : L, L, D);
      h.load(source, q_row, offsets[pair], head);
      h.probabilities(dropout, dropout.block_key(task));
      context.resize(h.Lq * h.Dp);
      multiply(h.Lq, h.Dp, L, h.pd.data(), h.Lp, 1, h.v.data(), h.Dp, context.data(), h.Dp);
      for (int i = 0; i < h.Lq; ++i)
        std::copy_n(&context[i * h.Dp], D, out + (q_row + i) * units + head * D);
    }
  }
}

// Writes rows [count, D] times scale to their place, and adds them up in `sum` [D].
void store(const Head& h, const std::vector<float>& from, int count, float scale, float* to,
           int64_t stride, float* sum) {
  for (int i = 0; i < count; ++i)
    for (int d = 0; d < h.D; ++d) {
      const float value = from[i * h.Dp + d] * scale;
      to[i * stride + d] = value;
      sum[d] += value;
    }
}

// With p the probabilities, f the dropout's factors, o the output:
//   dv = (p f)^T do,  dp = (do v^T) f,  ds = p (dp - rowsum(p dp)),  dq = ds k,  dk = ds^T q.
void attend_backward(const Source& source, const int32_t* offsets, int64_t pairs, int heads,
                     int units, bool cls, const Dropout& dropout, const float* dout, float* dq,
                     float* dk, float* dv, float* dbias) {
  const int D = units / heads, threads = omp_get_max_threads();
  std::vector<float> partial(threads * 3 * units);
#pragma omp parallel num_threads(threads)
  {
    Head h;
    float* my_bias = &partial[omp_get_thread_num() * 3 * units];
#pragma omp for schedule(static)
    for (int64_t task = 0; task < pairs * heads; ++task) {
      const int64_t pair = task / heads, row = offsets[pair];
      const int head = task % heads, L = offsets[pair + 1] - row;
      const int64_t q_row = cls ? pair : row, column = static_cast<int64_t>(head) * D;
      h.size(cls ? 1 : L, L, D);
      h.load(source, q_row, row, head);
      h.transpose(h.v, &h.v_t);
      h.load(&h.dout, dout + q_row * units + column, units, nullptr, h.Lq, 1.0f);
      const uint32_t key = dropout.block_key(task);
      h.probabilities(dropout, key);

      h.dp.resize(h.Lq * h.Lp);
      multiply(h.Lq, h.Lp, D, h.dout.data(), h.Dp, 1, h.v_t.data(), h.Lp, h.dp.data(), h.Lp);
      h.dv.resize(L * h.Dp);
      multiply(L, h.Dp, h.Lq, h.pd.data(), 1, h.Lp, h.dout.data(), h.Dp, h.dv.data(), h.Dp);
      for (int i = 0; i < h.Lq; ++i) {
        // p f is 0 or p / (1 - rate): p dp = pd (do v^T) needs no second look at the mask.
        float *ds = &h.dp[i * h.Lp], *p = &h.p[i * h.Lp], *pd = &h.pd[i * h.Lp];
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int j = 0; j < h.Lp; ++j) {
          ds[j] *= pd[j];
          total += ds[j];
        }
#pragma omp simd
        for (int j = 0; j < h.Lp; ++j) ds[j] -= p[j] * total;
      }
      h.dq.resize(h.Lq * h.Dp);
      multiply(h.Lq, h.Dp, L, h.dp.data(), h.Lp, 1, h.k.data(), h.Dp, h.dq.data(), h.Dp);
      h.dk.resize(L * h.Dp);
      multiply(L, h.Dp, h.Lq, h.dp.data(), 1, h.Lp, h.q.data(), h.Dp, h.dk.data(), h.Dp);

      float* sum = my_bias + column;
      store(h, h.dq, h.Lq, 1.0f / std::sqrt(1.0f * D), dq + q_row * source.q_stride + column,
            source.q_stride, sum);
      store(h, h.dk, L, 1.0f, dk + row * source.kv_stride + column, source.kv_stride, sum + units);
      store(h, h.dv, L, 1.0f, dv + row * source.kv_stride + column, source.kv_stride,
            sum + 2 * units);
    }
  }
  add_partial_sums(partial, threads, 3 * units, dbias);
}

// The two forms differ in where queries, keys and values come from.
Source self_source(Tensors* inputs, int first) {
  const float* qkv = data(inputs, first);
  const int64_t units = (*inputs)[first].shape[1] / 3;
  return {qkv, qkv + units, qkv + 2 * units, data(inputs, first + 1), 3 * units, 3 * units};
}

Source cls_source(Tensors* inputs, int first) {
  const float *q = data(inputs, first), *kv = data(inputs, first + 1);
  const int64_t units = (*inputs)[first].shape[1];
  return {q, kv, kv + units, data(inputs, first + 2), units, 2 * units};
}

template <bool cls>
MXReturnValue forward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                      const OpResource&) {
  const Source source = cls ? cls_source(inputs, 0) : self_source(inputs, 0);
  const int offsets = cls ? 3 : 2;
  attend(source, data<int32_t>(inputs, offsets), (*inputs)[offsets].shape[0] - 1,
         integer(attributes, "heads"), (*outputs)[0].shape[1], cls,
         Dropout(data<int32_t>(inputs, offsets + 1), integer(attributes, "site")),
         data(outputs, 0));
  return mxnet::ext::MX_SUCCESS;
}

template <bool cls>
MXReturnValue backward(const Attributes& attributes, Tensors* inputs, Tensors* outputs,
                       const OpResource&) {
  const Source source = cls ? cls_source(inputs, 1) : self_source(inputs, 1);
  const int offsets = cls ? 4 : 3, units = (*inputs)[0].shape[1];
  float* dq = data(outputs, 0);
  float* dk = cls ? data(outputs, 1) : dq + units;
  attend_backward(source, data<int32_t>(inputs, offsets), (*inputs)[offsets].shape[0] - 1,
                  integer(attributes, "heads"), units, cls,
                  Dropout(data<int32_t>(inputs, offsets + 1), integer(attributes, "site")),
                  data(inputs, 0), dq, dk, dk + units, data(outputs, cls ? 2 : 1));
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue self_shape(const Attributes&, Shapes* in, Shapes* out) {
  (*in)[1] = {(*in)[0][1]};
  (*in)[3] = {2};
  (*out)[0] = {(*in)[0][0], (*in)[0][1] / 3};
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue cls_shape(const Attributes&, Shapes* in, Shapes* out) {
  (*in)[2] = {3 * (*in)[0][1]};
  (*in)[3] = {(*in)[0][0] + 1};
  (*in)[4] = {2};
  (*out)[0] = (*in)[0];
  return mxnet::ext::MX_SUCCESS;
}

}  // namespace

REGISTER_OP(bert_attention)
    .setForward(forward<false>, "cpu")
    .setBackward(backward<false>, "cpu")
    .setParseAttrs(one_output<4>)
    .setInferType(infer_type<2, 3>)
    .setInferShape(self_shape);

REGISTER_OP(bert_cls_attention)
    .setForward(forward<true>, "cpu")
    .setBackward(backward<true>, "cpu")
    .setParseAttrs(one_output<5>)
    .setInferType(infer_type<3, 4>)
    .setInferShape(cls_shape);

}  // namespace bert
