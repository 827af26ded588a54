// A piece's threads: one parallel region, in which kernels follow each other with barriers between.
#pragma once

#include <atomic>
#include <cstdint>

#include <sched.h>
#include <time.h>

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

// What the threads of a region share. A thread that waits spins, since the others are rarely more
// than microseconds behind, and then gives its CPU to whoever wants it: beside a busy thread on
// the same CPU, waiting for a second took 4 ms of CPU time, and 190 ms without giving way. A futex
// would leave the CPU as well, but takes tens of microseconds to come back where nobody wants it.
struct Barrier {
  static constexpr uint64_t TICKS = 100'000;  // 20 to 50 us at 2 to 5 GHz
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
    for (const uint64_t start = ticks(); round.load(std::memory_order_acquire) == before;) {
      if (ticks() - start < TICKS) {
        rest();
      } else {
        sched_yield();
      }
    }
  }

  // The CPU's clock: a pause takes 10 to 140 cycles, so that counting them would tell no time.
  static uint64_t ticks() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec * uint64_t(1'000'000'000) + now.tv_nsec) * 3;
#endif
  }
  static void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
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
