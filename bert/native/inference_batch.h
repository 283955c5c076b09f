// Sentences (or pairs) of inference that are computed together.
#pragma once

#include <cstdint>
#include <vector>

namespace bert {

struct Batch {
  const int32_t *ids, *types, *offsets;  // [tokens], [tokens], [sentences + 1], from 0 on
  int64_t sentences;
  float* logits;  // [sentences, classes]
  int64_t tokens() const { return offsets[sentences]; }
};

// Some sentences, and how they are cut into batches.
class Cut {
 public:
  // Of `all` the offsets are not read. lengths [sentences].
  Cut(const Batch& all, const int32_t* lengths, int64_t classes)
      : all_(all), lengths_(lengths), classes_(classes) {
    for (int64_t s = 0; s < all.sentences; ++s) tokens_ += lengths[s];
  }

  // At most `count` batches of about the same number of tokens; they point into this object, until
  // it cuts again.
  std::vector<Batch> into(int64_t count) {
    offsets_.resize(2 * all_.sentences);
    int32_t* next = offsets_.data();
    std::vector<Batch> batches;
    for (int64_t s = 0, before = 0; s < all_.sentences;) {
      Batch batch = {all_.ids + before, all_.types + before, next, 0, all_.logits + s * classes_};
      const int64_t end = tokens_ * (batches.size() + 1) / count - before;
      *next = 0;
      do {
        next[1] = next[0] + lengths_[s++];
        ++next, ++batch.sentences;
      } while (s < all_.sentences && *next + lengths_[s] / 2 < end);
      before += *next++;
      batches.push_back(batch);
    }
    return batches;
  }

 private:
  const Batch all_;
  const int32_t* lengths_;
  const int64_t classes_;
  int64_t tokens_ = 0;
  std::vector<int32_t> offsets_;  // of all batches, each from 0 on
};

}  // namespace bert
