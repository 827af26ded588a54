// A piece's threads: one parallel region, in which kernels follow each other with barriers between.
#pragma once

#include <atomic>
#include <cstdint>

#include <sched.h>

#include "vec.h"

namespace gopt {

// One step of the engine, as the executor hands it over.
struct Step {
  int64_t T, R, S, P;      // tokens, rows of logits, sequences, blocks in the longest table
  char* scratch;           // private memory of all threads
  int64_t scratch_stride;  // bytes of it that each thread has, a multiple of 64
  int32_t threads;
  int32_t first, last;     // run the piece's kernels from the first to before the last
  int64_t block_size;      // slots in a block of keys and values
};

// What the threads of a region share. A thread that waits spins for some microseconds, since the
// others are rarely further behind, and then gives its core to whoever wants it.
struct Barrier {
  static constexpr int SPINS = 2000;
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> round{0};

  void wait(int threads) {
    if (threads == 1) return;
    const int before = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      arrived.store(0, std::memory_order_relaxed);
      round.store(before + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round.load(std::memory_order_acquire) == before; ++spins) {
      if (spins >= SPINS) {
        sched_yield();
      } else {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    }
  }
};

// A thread's view of its region.
struct Team {
  int rank, size;
  Barrier* shared;
  char* scratch;  // this thread's own memory, aligned to 64 bytes

  void barrier() { shared->wait(size); }

  // This thread's share of [0, count), in whole multiples of `unit` but for the last: contiguous,
  // and as equal as that allows.
  void share(int64_t count, int64_t unit, int64_t& first, int64_t& last) const {
    const int64_t units = (count + unit - 1) / unit;
    first = units * rank / size * unit;
    last = units * (rank + 1) / size * unit;
    if (first > count) first = count;
    if (last > count) last = count;
  }
};

}  // namespace gopt
