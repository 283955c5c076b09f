// Memory that operators keep between their calls.
#pragma once

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace bert {

// A block of memory. Given back, it is kept for the next one that needs it: a step of training asks
// for the same blocks as the step before, and memory that is new to the process is slow.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { release(); }

  // Returns so many bytes, aligned for vectors, of any content. May throw std::bad_alloc.
  char* take(size_t bytes) {
    release();
    Pool& pool = Memory::pool();
    const std::lock_guard<std::mutex> lock(pool.mutex);
    auto best = pool.free.end();
    for (auto it = pool.free.begin(); it != pool.free.end(); ++it) {
      if (it->size < bytes) continue;
      if (best == pool.free.end() || it->size < best->size) best = it;
    }
    if (best == pool.free.end()) {
      // One that is too small would not be used again where batches grow.
      if (!pool.free.empty()) {
        std::free(pool.free.back().data);
        pool.free.pop_back();
      }
      const size_t size = (bytes + bytes / 16 + kPage) / kPage * kPage;
      block_ = {static_cast<char*>(std::aligned_alloc(kPage, size)), size};
      if (!block_.data) throw std::bad_alloc();
    } else {
      block_ = *best;
      pool.free.erase(best);
    }
    return block_.data;
  }

  void release() {
    if (!block_.data) return;
    Pool& pool = Memory::pool();
    const std::lock_guard<std::mutex> lock(pool.mutex);
    pool.free.push_back(block_);
    block_ = {};
  }

 private:
  static constexpr size_t kPage = 1 << 21;
  struct Block {
    char* data = nullptr;
    size_t size = 0;
  };
  struct Pool {
    std::mutex mutex;
    std::vector<Block> free;
  };
  static Pool& pool() {
    static Pool* pool = new Pool;  // never deleted: blocks come back at any time
    return *pool;
  }
  Block block_;
};

// Divides a block into arrays; without a block (null) it only adds up their sizes.
class Parts {
 public:
  explicit Parts(char* block) : block_(block) {}

  template <typename T>
  T* take(int64_t count) {
    T* part = block_ ? reinterpret_cast<T*>(block_ + size_) : nullptr;
    size_ += (count * sizeof(T) + 63) / 64 * 64;
    return part;
  }

  size_t size() const { return size_; }

 private:
  char* block_;
  size_t size_ = 0;
};

// Takes a block for a struct of arrays, whose divide(Parts*) sets them.
template <typename Arrays>
void reserve(Memory* memory, Arrays* arrays) {
  Parts sizes(nullptr);
  arrays->divide(&sizes);
  Parts parts(memory->take(sizes.size()));
  arrays->divide(&parts);
}

}  // namespace bert
