// Keeping the threads of parallel regions on CPUs, and letting them go.
//
// `gopt_pin(cpus, n)` puts thread i of a region of n on cpus[i], or leaves it alone if that is
// negative; the first is the caller. `gopt_unpin(cpus, n, threads)` lets each thread of a region of
// `threads` run on any of n CPUs. Both answer how many threads did not do as they were told.
#pragma once

#include <atomic>
#include <cstdint>

#include <sched.h>

#include "launch.h"

namespace gopt {

// A set of CPUs for sched_setaffinity, without the limit of 1024 that cpu_set_t has.
struct CpuSet {
  static constexpr int MOST = 1 << 16;
  static constexpr int BITS = 8 * sizeof(unsigned long);
  unsigned long words[MOST / BITS] = {};

  void add(int32_t cpu) {
    if (cpu >= 0 && cpu < MOST) words[cpu / BITS] |= 1ul << cpu % BITS;
  }
  bool apply() const {
    return sched_setaffinity(0, sizeof words, reinterpret_cast<const cpu_set_t*>(words)) == 0;
  }
};

}  // namespace gopt

GOPT_EXPORT int32_t gopt_pin(const int32_t* cpus, int32_t n) {
  std::atomic<int32_t> left{n};
  gopt::run_region(n, [&](int rank, int) {
    gopt::CpuSet set;
    set.add(cpus[rank]);
    if (cpus[rank] < 0 || set.apply()) --left;
  });
  return left;
}

GOPT_EXPORT int32_t gopt_unpin(const int32_t* cpus, int32_t n, int32_t threads) {
  gopt::CpuSet set;
  for (int32_t i = 0; i < n; ++i) set.add(cpus[i]);
  std::atomic<int32_t> left{threads};
  gopt::run_region(threads, [&](int, int) {
    if (set.apply()) --left;
  });
  return left;
}
