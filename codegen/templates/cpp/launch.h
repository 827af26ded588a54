// A parallel region: `body(rank, size)` on `threads` threads at once, the caller being the first.
//
// OpenMP keeps its threads between regions of one calling thread as long as each region asks for
// the same number; one that asks for fewer ends the others, and starting them again costs as much
// as a kernel. So everything in a process asks for the same number, and what has less work leaves
// threads idle inside the region. With GOPT_STD_THREADS they are std::threads of this region alone,
// which ThreadSanitizer understands.
#pragma once

#if defined(GOPT_STD_THREADS)
#include <thread>
#include <vector>
#else
#include <omp.h>
#endif

// A function that the shared object exports.
#define GOPT_EXPORT extern "C" __attribute__((visibility("default")))

namespace gopt {

template <class Body>
void run_region(int threads, const Body& body) {
#if defined(GOPT_STD_THREADS)
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank)
    others.emplace_back([&, rank] { body(rank, threads); });
  body(0, threads);
  for (std::thread& other : others) other.join();
#else
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
#endif
}

}  // namespace gopt
