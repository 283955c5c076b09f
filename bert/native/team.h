// Threads that share the phases of one computation.
//
// Nobody waits for a thread that has taken nothing: where other processes use the cores, whoever
// runs computes everything. OpenMP waits for all threads to come and to leave: beside a busy process
// a sentence took 8 ms instead of 2.
#pragma once

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "common.h"

namespace bert {

// Returns when `done` says so. Spinning is fastest, but the core may be needed.
template <typename Done>
void spin_until(const Done& done) {
  for (int spins = 0; !done(); ++spins)
    if (spins >= 200)
      sched_yield();
    else
#if defined(__x86_64__)
      __builtin_ia32_pause();
#else
      std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// The threads of this process that help the one that calls run().
class Helpers {
 public:
  // Calls work(0), and work(1) to work(threads - 1) in those helpers that come before work(0) ends.
  static void run(int threads, const std::function<void(int)>& work) {
    static std::mutex busy;
    static Helpers* helpers = nullptr;  // never deleted: its threads may outlive main
    std::unique_lock<std::mutex> alone(busy, std::try_to_lock);
    if (!alone || threads == 1) return work(0);
    // After a fork the child has none of its parent's threads.
    if (!helpers || helpers->process_ != getpid() || helpers->count_ < threads - 1)
      helpers = new Helpers(threads - 1);
    helpers->call(threads, work);
  }

 private:
  explicit Helpers(int count) : process_(getpid()) {
    sigset_t all, before;  // signals are for the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (; count_ < count; ++count_) std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {  // there are too many threads: fewer do
      count_ = count;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void call(int threads, const std::function<void(int)>& work) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      free_ = threads - 1;
    }
    come_.notify_all();
    work(0);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = nullptr;
      free_ = 0;
    }
    spin_until([this] { return working_.load(std::memory_order_acquire) == 0; });
  }

  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      come_.wait(lock, [this] { return free_ > 0; });
      const std::function<void(int)>* work = work_;
      const int number = free_--;
      working_.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      (*work)(number);
      working_.fetch_sub(1, std::memory_order_release);
      lock.lock();
    }
  }

  const pid_t process_;
  int count_ = 0;
  std::mutex mutex_;
  std::condition_variable come_;
  const std::function<void(int)>* work_ = nullptr;
  int free_ = 0;  // places for helpers that have not come yet
  std::atomic<int> working_{0};
};

// One computation: phases, each of which begins when the one before is done.
class Team {
  struct alignas(64) Phase {
    std::atomic<int64_t> taken{0}, done{0};
  };

 public:
  Team(int threads, int64_t phases) : threads_(threads), phases_(phases) {}

  // One thread's way through the phases.
  class Member {
   public:
    explicit Member(Team* team) : threads_(team->threads_), phase_(team->phases_.data()) {}

    // Calls work(share, first item of the share that is likely to be next) until all items of the
    // phase are taken, and returns when all are done.
    template <typename Work>
    void phase(int64_t items, const Work& work) {
      const int64_t shares = std::min<int64_t>(items, kShares * threads_);
      for (int64_t i; (i = phase_->taken.fetch_add(1, std::memory_order_relaxed)) < shares;) {
        work(Share(items, i, shares), Share(items, std::min(i + threads_, shares - 1), shares).begin);
        phase_->done.fetch_add(1, std::memory_order_release);
      }
      spin_until([&] { return phase_->done.load(std::memory_order_acquire) == shares; });
      ++phase_;
    }

   private:
    const int threads_;
    Phase* phase_;
  };

 private:
  static constexpr int kShares = 4;  // of a thread
  const int threads_;
  std::vector<Phase> phases_;
};

}  // namespace bert
