// The whole forward pass of a classifier, for inference: one function, called by bert/inference.py.
//
// The sentences (or pairs) of a batch follow each other without padding, sentence s in rows
// offsets[s] to offsets[s + 1]. Between two products rows are in memory, [rows, stride_of(columns)];
// the columns that fill a row up are 0. Products are in float32 or bfloat16; everything else is
// float32. The threads share each phase of a few sentences; of many, each thread computes some. A
// sentence's result depends on nothing but the sentence, so that it does not matter which thread
// computes what.
#include "activations.h"
#include "inference_attention.h"
#include "inference_batch.h"
#include "layer_norm.h"
#include "packed.h"
#include "team.h"

namespace bert {
namespace {

struct Sizes {
  int64_t words, types, positions, layers, units, hidden, heads, classes;
};

// What a caller gets to hold, for either type of numbers.
class Network {
 public:
  explicit Network(const Sizes& sizes) : sizes_(sizes) {}
  virtual ~Network() = default;
  const Sizes& sizes() const { return sizes_; }
  virtual void together(const Batch& batch) = 0;  // the threads share its phases
  virtual void alone(const std::vector<Batch>& batches) = 0;  // each thread computes some

 private:
  const Sizes sizes_;
};

struct Norm {
  const float *gamma, *beta;
};

// Reads the parameters one after the other, in the order of bert/config.py.
class Parameters {
 public:
  explicit Parameters(const float* const* first) : next_(first) {}
  const float* take() { return *next_++; }
  Norm norm() {
    const float* gamma = take();
    return {gamma, take()};
  }
  template <typename Type>
  Packed<Type> dense(int count, int64_t columns, int64_t depth) {
    std::vector<const float*> weights, biases;
    for (int i = 0; i < count; ++i) weights.push_back(take()), biases.push_back(take());
    return Packed<Type>(weights, biases, columns, depth);
  }

 private:
  const float* const* next_;
};

template <typename Type>
class PackedNetwork : public Network {
 public:
  using Number = typename Type::Number;

  PackedNetwork(const Sizes& sizes, float eps, Parameters from)
      : Network(sizes),
        eps_(eps),
        word_(from.take()),
        type_(from.take()),
        position_(from.take()),
        norm_(from.norm()) {
    const int64_t units = sizes.units, hidden = sizes.hidden;
    for (int64_t i = 0; i < sizes.layers; ++i) {
      auto qkv = from.dense<Type>(3, units, units);
      auto projection = from.dense<Type>(1, units, units);
      const Norm norm = from.norm();
      auto inner = from.dense<Type>(1, hidden, units);
      auto outer = from.dense<Type>(1, units, hidden);
      layers_.push_back({std::move(qkv), std::move(projection), std::move(inner), std::move(outer),
                         norm, from.norm()});
    }
    pooler_.push_back(from.dense<Float32>(1, units, units));
    pooler_.push_back(from.dense<Float32>(1, sizes.classes, units));
  }

  void together(const Batch& batch) override {
    const int threads = omp_get_max_threads();
    reserve(1, threads, {batch});
    Team team(threads, phases());
    Helpers::run(threads, [&](int thread) {
      Work(*this, batch, &buffers_[0], &team, &scratch_[thread]).run();
    });
  }

  void alone(const std::vector<Batch>& batches) override {
    const int threads = omp_get_max_threads();
    reserve(threads, threads, batches);
    std::atomic<size_t> next{0};
    Helpers::run(threads, [&](int thread) {
      for (size_t i; (i = next.fetch_add(1)) < batches.size();) {
        Team team(1, phases());
        Work(*this, batches[i], &buffers_[thread], &team, &scratch_[thread]).run();
      }
    });
  }

 private:
  struct Layer {
    Packed<Type> qkv, projection, inner, outer;
    Norm norm, outer_norm;
  };

  // Some rows on their way through a layer. In float32 the products read `hidden` itself.
  struct Rows {
    Buffer<float> hidden, q;
    Buffer<Number> low, context, inner;

    void reserve(int64_t count, const Sizes& sizes) {
      count += kWidth;  // attention reads whole vectors, AMX whole tiles
      hidden.resize(std::max<size_t>(hidden.size(), count * stride_of(sizes.units)));
      q.resize(std::max<size_t>(q.size(), count * stride_of(3 * sizes.units)));
      context.resize(std::max<size_t>(context.size(), count * stride_of(sizes.units)));
      inner.resize(std::max<size_t>(inner.size(), count * stride_of(sizes.hidden)));
      if constexpr (!kSame) low.resize(hidden.size());
    }

    Number* input() {
      if constexpr (kSame) return hidden.data();
      else return low.data();
    }
  };

  static constexpr bool kSame = std::is_same<Number, float>::value;

  // What a batch needs while it is computed.
  struct Buffers {
    Rows all, first;  // all tokens; each sentence's first
    Buffer<float> outputs;
  };

  // Of a layer at most, and before and after the layers.
  int64_t phases() const { return 9 * (sizes().layers + 1); }

  // What one thread does.
  class Work {
   public:
    Work(const PackedNetwork& network, const Batch& batch, Buffers* buffers, Team* team,
         AttentionScratch* scratch)
        : n_(network), batch_(batch), b_(*buffers), member_(team), scratch_(scratch) {}

    void run() {
      [[maybe_unused]] const typename Type::Unit unit;
      embed();
      for (const Layer& layer : n_.layers_) {
        const bool last = &layer == &n_.layers_.back();
        Rows* rows = last ? &b_.first : &b_.all;
        if (last) project_last(layer);
        else project(b_.all, batch_.tokens(), layer.qkv, 0, layer.qkv.panels());
        attend(last, rows);
        finish_layer(layer, rows, last ? batch_.sentences : batch_.tokens());
      }
      classify();
    }

   private:
    const Sizes& sizes() const { return n_.sizes(); }
    int64_t units() const { return sizes().units; }
    int64_t stride() const { return stride_of(units()); }

    // Calls work(row) for each of the rows.
    template <typename EachRow>
    void for_rows(int64_t count, const EachRow& work) {
      member_.phase(count, [&](const Share& rows, int64_t) {
        for (int64_t row = rows.begin; row < rows.end; ++row) work(row);
      });
    }

    template <typename T, typename Finish>
    void multiply(const Product<T>& product, const Finish& finish) {
      member_.phase(product.items(), [&](const Share& items, int64_t after) {
        product.compute(items, after, finish);
      });
    }

    // out = x W^T, panel by panel: finish(sum, out) gives what is written.
    template <typename T, typename Out, typename Finish>
    void dense(const typename T::Number* x, int64_t rows, int64_t x_stride, const Packed<T>& w,
               Out* out, int64_t out_stride, const Finish& finish) {
      using OutType = std::conditional_t<std::is_same<Out, float>::value, Float32, Type>;
      multiply(Product<T>{x, rows, x_stride, w, 0, w.panels()},
               [&](int64_t row, int64_t column, float* sums) {
                 Out* to = out + row * out_stride + column;
                 const float* bias = w.bias() + column;
#pragma omp simd
                 for (int c = 0; c < kPanel; ++c) sums[c] = finish(sums[c] + bias[c], to[c]);
                 OutType::store(sums, kPanel, to);
               });
    }

    void normalise_row(Rows* rows, int64_t row, const Norm& norm) {
      const int units = this->units();
      const float *gamma = norm.gamma, *beta = norm.beta;
      float* x = &rows->hidden[row * stride()];
      normalise(x, units, n_.eps_);
#pragma omp simd
      for (int c = 0; c < units; ++c) x[c] = x[c] * gamma[c] + beta[c];
      if constexpr (!kSame) Type::store(x, stride(), &rows->low[row * stride()]);
    }

    void embed() {
      for_rows(batch_.tokens(), [&](int64_t row) {
        const int units = this->units();
        const float* word = n_.word_ + batch_.ids[row] * sizes().units;
        const float* type = n_.type_ + batch_.types[row] * sizes().units;
        const int32_t *first = batch_.offsets, *last = first + batch_.sentences;
        const int32_t* after = std::upper_bound(first, last, row);
        const float* position = n_.position_ + (row - after[-1]) * sizes().units;
        float* x = &b_.all.hidden[row * stride()];
#pragma omp simd
        for (int c = 0; c < units; ++c) x[c] = word[c] + type[c] + position[c];
        normalise_row(&b_.all, row, n_.norm_);
      });
    }

    // q = x W^T with bias, of some panels of the joined queries, keys and values.
    void project(Rows& rows, int64_t count, const Packed<Type>& w, int64_t begin, int64_t end) {
      const int64_t q_stride = stride_of(3 * units());
      multiply(Product<Type>{rows.input(), count, stride(), w, begin, end - begin},
               [&](int64_t row, int64_t column, float* sums) {
                 float* to = &rows.q[row * q_stride + column];
                 const float* bias = w.bias() + column;
#pragma omp simd
                 for (int c = 0; c < kPanel; ++c) to[c] = sums[c] + bias[c];
               });
    }

    // Of the last layer a classifier reads the first tokens only: the other ones are keys and values.
    void project_last(const Layer& layer) {
      for_rows(batch_.sentences, [&](int64_t s) {
        const int64_t from = batch_.offsets[s] * stride();
        std::copy_n(&b_.all.hidden[from], stride(), &b_.first.hidden[s * stride()]);
        if constexpr (!kSame)
          std::copy_n(&b_.all.low[from], stride(), &b_.first.low[s * stride()]);
      });
      project(b_.all, batch_.tokens(), layer.qkv, units() / kPanel, layer.qkv.panels());
      project(b_.first, batch_.sentences, layer.qkv, 0, panels_of(units()));
    }

    void attend(bool first_only, Rows* rows) {
      const Queries<Number> queries = {rows->q.data(), rows->context.data(),
                                       stride_of(3 * units()), stride(), first_only};
      const Sentences sentences = {batch_.offsets, units(), sizes().heads,
                                   b_.all.q.data() + units()};
      member_.phase(batch_.sentences * sizes().heads, [&](const Share& heads, int64_t) {
        attend_heads<Type>(sentences, queries, heads, scratch_);
      });
    }

    void finish_layer(const Layer& layer, Rows* rows, int64_t count) {
      const auto add = [](float sum, float residual) { return sum + residual; };
      const auto gelu = [](float sum, Number) {
        return std::conditional_t<kSame, Gelu, RoughGelu>::value(sum);
      };
      const int64_t inner_stride = stride_of(sizes().hidden);
      float* hidden = rows->hidden.data();
      dense(rows->context.data(), count, stride(), layer.projection, hidden, stride(), add);
      for_rows(count, [&](int64_t row) { normalise_row(rows, row, layer.norm); });
      dense(rows->input(), count, stride(), layer.inner, rows->inner.data(), inner_stride, gelu);
      dense(rows->inner.data(), count, inner_stride, layer.outer, hidden, stride(), add);
      for_rows(count, [&](int64_t row) { normalise_row(rows, row, layer.outer_norm); });
    }

    // tanh of a dense layer, then the classifier's.
    void classify() {
      const auto tanh = [](float z, float) {
        const float e = exponential(-2.0f * std::fabs(z)), t = (1.0f - e) / (1.0f + e);
        return z < 0 ? -t : t;
      };
      const auto plain = [](float sum, float) { return sum; };
      const Packed<Float32> &pooler = n_.pooler_[0], &classifier = n_.pooler_[1];
      const int64_t count = batch_.sentences, out_stride = stride_of(sizes().classes);
      float *hidden = b_.first.hidden.data(), *pooled = b_.first.q.data();
      float* out = b_.outputs.data();
      dense(hidden, count, stride(), pooler, pooled, stride(), tanh);
      dense(pooled, count, stride(), classifier, out, out_stride, plain);
      for_rows(count, [&](int64_t row) {
        std::copy_n(out + row * out_stride, sizes().classes, batch_.logits + row * sizes().classes);
      });
    }

    const PackedNetwork& n_;
    const Batch& batch_;
    Buffers& b_;
    Team::Member member_;
    AttentionScratch* scratch_;
  };

  // For the largest of the batches. Memory is asked for here: in a helping thread nobody could
  // catch that there is none.
  void reserve(size_t buffers, size_t threads, const std::vector<Batch>& batches) {
    int64_t tokens = 0, sentences = 0;
    int longest = 0;
    for (const Batch& batch : batches) {
      tokens = std::max(tokens, batch.tokens());
      sentences = std::max(sentences, batch.sentences);
      for (int64_t s = 0; s < batch.sentences; ++s)
        longest = std::max(longest, batch.offsets[s + 1] - batch.offsets[s]);
    }
    if (buffers_.size() < buffers) buffers_.resize(buffers);
    for (size_t i = 0; i < buffers; ++i) {
      Buffers& b = buffers_[i];
      b.all.reserve(tokens, sizes());
      b.first.reserve(sentences, sizes());
      b.outputs.resize(std::max<size_t>(b.outputs.size(), sentences * stride_of(sizes().classes)));
    }
    if (scratch_.size() < threads) scratch_.resize(threads);
    const int depth = sizes().units / sizes().heads;
    for (AttentionScratch& scratch : scratch_) scratch.reserve(longest, depth);
  }

  const float eps_;
  const float *word_, *type_, *position_;  // the tables stay where they are
  const Norm norm_;
  std::vector<Layer> layers_;
  std::vector<Packed<Float32>> pooler_;  // and the classifier
  std::vector<Buffers> buffers_;         // of the batches that are computed at the same time
  std::vector<AttentionScratch> scratch_;  // of each thread
};

// Tokens of a batch: enough to read the weights seldom, few enough for the caches.
constexpr int64_t kTogether = 512, kAlone = 1024;
constexpr int64_t kFewest = 64;  // with fewer, threads that share each phase read less weights

// Whether ids, types and lengths stay within the tables: otherwise memory of others would be read.
bool valid(const Sizes& sizes, const int32_t* ids, const int32_t* types, int64_t tokens,
           const int32_t* lengths, int64_t sentences) {
  int64_t sum = 0;
  for (int64_t s = 0; s < sentences; ++s) {
    if (lengths[s] < 1 || lengths[s] > sizes.positions) return false;
    sum += lengths[s];
  }
  for (int64_t i = 0; i < tokens; ++i)
    if (ids[i] < 0 || ids[i] >= sizes.words || types[i] < 0 || types[i] >= sizes.types) return false;
  return sum == tokens;
}

}  // namespace
}  // namespace bert

extern "C" {

// The parameters' memory must outlive the network. `amx`: the process may use it. Returns null if
// there is not enough memory.
void* bert_inference_new(const int64_t* sizes, float eps, const float* const* parameters,
                         int bfloat16, [[maybe_unused]] int amx) {
  using namespace bert;
  Sizes named;
  static_assert(sizeof named == 8 * sizeof *sizes);
  std::memcpy(&named, sizes, sizeof named);
  try {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
    if (bfloat16 && amx) return new PackedNetwork<AmxBFloat16>(named, eps, Parameters(parameters));
#endif
    if (bfloat16) return new PackedNetwork<BFloat16>(named, eps, Parameters(parameters));
    return new PackedNetwork<Float32>(named, eps, Parameters(parameters));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void bert_inference_delete(void* network) { delete static_cast<bert::Network*>(network); }

// Returns 0; 1 if there is not enough memory; 2 if an id, a type or a length is not possible.
int bert_inference_run(void* handle, const int32_t* ids, const int32_t* types, int64_t tokens,
                       const int32_t* lengths, int64_t sentences, float* logits) {
  using namespace bert;
  Network* network = static_cast<Network*>(handle);
  if (!valid(network->sizes(), ids, types, tokens, lengths, sentences)) return 2;
  try {
    Cut cut({ids, types, nullptr, sentences, logits}, lengths, network->sizes().classes);
    const int64_t threads = omp_get_max_threads();
    const int64_t turns = divide_up(tokens, threads * kAlone);
    const std::vector<Batch> batches = cut.into(threads * turns);
    int64_t longest = 0;
    for (const Batch& batch : batches) longest = std::max(longest, batch.tokens());
    const bool even = longest * turns * threads <= tokens + tokens / 8;
    if (threads == 1 || (even && longest >= kFewest))
      network->alone(batches);
    else
      for (const Batch& batch : cut.into(divide_up(tokens, kTogether))) network->together(batch);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
}
