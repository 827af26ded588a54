// How fast this machine reads memory and computes dot products, at most: the two rates that bound a
// decoder. Every function runs on `threads` threads and returns a number that depends on all its
// work, so that none of it can be left out.
#include <omp.h>

#include "vec.h"

#define GOPT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace gopt;

typedef uint64_t words __attribute__((vector_size(64)));

// Independent chains of sums: more than the latency of a dot product needs, fewer than registers.
constexpr int CHAINS = 12 / PARTS;

// Calls `work(rank, size)` on every thread and adds up what it returns.
template <class Work>
double on_threads(int threads, const Work& work) {
  double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  total += work(omp_get_thread_num(), omp_get_num_threads());
  return total;
}

}  // namespace

// Reads `count` vectors of 64 bytes: every thread a slice of its own, as `STREAMS` streams, each
// prefetched 4 KiB ahead, which helps where the hardware's own prefetchers fall behind.
template <int STREAMS>
double read_streams(const words* data, int64_t count, int threads) {
  return on_threads(threads, [=](int rank, int size) {
    const int64_t length = count / size / STREAMS;
    const words* first = data + rank * length * STREAMS;
    words sums[STREAMS] = {};
    for (int64_t i = 0; i < length; ++i)
      for (int s = 0; s < STREAMS; ++s) {
        __builtin_prefetch(first + s * length + i + 64);
        sums[s] += first[s * length + i];
      }
    uint64_t total = 0;
    for (const words& sum : sums)
      for (int i = 0; i < 8; ++i) total += sum[i];
    return double(total);
  });
}

GOPT_EXPORT double read_memory(const void* data, int64_t bytes, int threads, int streams) {
  const words* first = static_cast<const words*>(data);
  return streams == 1 ? read_streams<1>(first, bytes / 64, threads)
                      : read_streams<4>(first, bytes / 64, threads);
}

// Writes every word, with the same slices, so that its pages are there.
GOPT_EXPORT void fill(uint64_t* data, int64_t bytes, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < bytes / 8; ++i) data[i] = i * 2654435761u;
}

// Makes a sum count as used, so that no round is left out, and leaves it in its register: told that
// memory changes instead, the compiler stores and loads every sum in every round.
inline void kept(f32x16& sum) {
#if defined(__x86_64__)
  for (native& part : sum.v) asm volatile("" : "+v"(part));
#else
  asm volatile("" : : "r"(&sum) : "memory");
#endif
}

// Products and sums that one round of a function below makes, on one thread.
GOPT_EXPORT int64_t operations_f32() { return 2 * LANES * CHAINS; }

GOPT_EXPORT double dot_f32(int64_t rounds, int threads) {
  return on_threads(threads, [=](int rank, int) {
    f32x16 sums[CHAINS] = {};
    const f32x16 x = splat(1e-3f + rank);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (f32x16& sum : sums) {
        sum = fma(x, x, sum);
        kept(sum);
      }
    }
    double total = 0;
#pragma GCC unroll 12  // or the sums stay in memory for the sake of this loop
    for (const f32x16& one : sums) total += sum(one);
    return total;
  });
}

// Dot products of bf16 pairs; without such an instruction, what float32 reaches.
GOPT_EXPORT int64_t operations_bf16() {
#if defined(GOPT_AVX512)
  return 2 * 32 * CHAINS;
#else
  return operations_f32();
#endif
}

GOPT_EXPORT double dot_bf16(int64_t rounds, int threads) {
#if defined(GOPT_AVX512)
  return on_threads(threads, [=](int rank, int) {
    __m512 sums[CHAINS] = {};
    const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f + rank), _mm512_set1_ps(1e-3f));
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (__m512& sum : sums) {
        sum = _mm512_dpbf16_ps(sum, x, x);
        asm volatile("" : "+v"(sum));
      }
    }
    double total = 0;
#pragma GCC unroll 12  // or the sums stay in memory for the sake of this loop
    for (const __m512& one : sums) total += _mm512_reduce_add_ps(one);
    return total;
  });
#else
  return dot_f32(rounds, threads);
#endif
}

// Dot products of fours of bytes, unsigned by signed, into 32 bits.
GOPT_EXPORT int64_t operations_int8() {
#if defined(GOPT_AVX512)
  return 2 * 64 * CHAINS;
#elif defined(GOPT_AVX2)
  return 2 * 32 * CHAINS;
#else
  return operations_f32();
#endif
}

GOPT_EXPORT double dot_int8(int64_t rounds, int threads) {
#if defined(GOPT_AVX512)
  return on_threads(threads, [=](int rank, int) {
    __m512i sums[CHAINS] = {};
    const __m512i x = _mm512_set1_epi8(char(rank + 1));
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (__m512i& sum : sums) {
        sum = _mm512_dpbusd_epi32(sum, x, x);
        asm volatile("" : "+v"(sum));
      }
    }
    double total = 0;
#pragma GCC unroll 12  // or the sums stay in memory for the sake of this loop
    for (const __m512i& one : sums) total += _mm512_reduce_add_epi32(one);
    return total;
  });
#elif defined(GOPT_AVX2)
  return on_threads(threads, [=](int rank, int) {
    __m256i sums[CHAINS] = {};
    __m256i x = _mm256_set1_epi8(char(rank + 1));
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (__m256i& sum : sums) {
        asm volatile("" : "+x"(x));  // else the products would be computed once
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones));
      }
    }
    double total = 0;
#pragma GCC unroll 12  // or the sums stay in memory for the sake of this loop
    for (const __m256i& one : sums)
      for (int i = 0; i < 4; ++i) total += double(reinterpret_cast<const int64_t*>(&one)[i]);
    return total;
  });
#else
  return dot_f32(rounds, threads);
#endif
}
