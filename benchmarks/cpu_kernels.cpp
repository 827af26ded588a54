// What cpu_kernels.py times: linear maps, beside a plain read and bare multiply-and-add loops.
// Each function runs one parallel region and returns its seconds.
#include <ctime>

#include <omp.h>

#include "gemm.h"

using namespace gopt;

#define EXPORT extern "C" __attribute__((visibility("default")))

// The time of day, or, for a thread that is alone, the time that it has had a core.
static double seconds_now(int threads) {
  timespec now;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// Seconds of `work(team)` on all threads, from a common start to the last one's end.
template <class Work>
static double timed(int threads, char* scratch, int64_t scratch_stride, const Work& work) {
  Barrier shared;
  double seconds = 0;
#pragma omp parallel num_threads(threads)
  {
    const int rank = omp_get_thread_num();
    Team team{rank, omp_get_num_threads(), &shared, scratch + rank * scratch_stride};
    team.barrier();
    const double start = seconds_now(threads);
    work(team);
    team.barrier();
    if (rank == 0) seconds = seconds_now(threads) - start;
  }
  return seconds;
}

EXPORT int64_t workspace_bytes(int64_t rows, int64_t k) { return linear_workspace(rows, k); }
EXPORT int64_t scratch_bytes(int64_t k) { return linear_scratch(k); }

EXPORT double read_all(const char* data, int64_t bytes, int threads, int64_t* out) {
  return timed(threads, nullptr, 0, [&](Team& team) {
    typedef int64_t line __attribute__((vector_size(64)));
    int64_t first, last;
    team.share(bytes, 256, first, last);
    line sums[4] = {};
    for (int64_t i = first; i + 256 <= last; i += 256)
      for (int j = 0; j < 4; ++j) {
        sums[j] ^= *reinterpret_cast<const line*>(data + i + 64 * j);
        __builtin_prefetch(data + i + 64 * j + AHEAD_BYTES);
      }
    const line sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    for (int j = 0; j < 8; ++j) out[8 * team.rank + j] = sum[j];
  });
}

// One maps call of `linear` for each of `count` weights that lie one after another. x has one row
// for each row of y; y: W[rows, N * n].
template <class W, int N>
static double maps(const W* weights, int64_t count, int64_t rows, int64_t n, int64_t k, const W* x,
                   W* y, int threads, char* workspace, char* scratch) {
  return timed(threads, scratch, linear_scratch(k), [&](Team& team) {
    const Step step{};
    const int64_t part = (n + PANEL - 1) / PANEL * PANEL * padded<W>(k);
    for (int64_t i = 0; i < count; ++i) {
      Panels<W> w[N];
      for (int p = 0; p < N; ++p) w[p] = {weights + (i * N + p) * part, n, k};
      const auto fill = [&](int64_t row, Input<W>* out) {
        for (int64_t c = 0; c < k; c += LANES) {
          const int left = int(k - c < LANES ? k - c : LANES);
          store_n(out + c, load_n(x + row * k + c, left), left);
        }
      };
      const auto store_row = [&](int64_t row, int64_t column, int cols, const float* const* acc) {
        for (int p = 0; p < N; ++p)
          for (int c = 0; c < cols; c += LANES)
            store_n(y + (row * N + p) * n + column + c, load(acc[p] + c),
                    cols - c < LANES ? cols - c : LANES);
      };
      linear(step, team, rows, w, fill, store_row, workspace);
      team.barrier();
    }
  });
}

#define MAPS(W)                                                                                \
  EXPORT double maps_##W(const W* weights, int64_t count, int64_t rows, int64_t n, int64_t k,  \
                         int parts, const W* x, W* y, int threads, char* workspace,            \
                         char* scratch) {                                                      \
    return (parts == 2 ? maps<W, 2> : maps<W, 1>)(weights, count, rows, n, k, x, y, threads,   \
                                                  workspace, scratch);                         \
  }
MAPS(float)
MAPS(bf16)
MAPS(f16)

// Operations a second of independent multiply-and-adds in registers, `steps` times SUMS.
template <class W>
static double peak(int64_t steps, int threads, float* out) {
  constexpr int SUMS = 12 / gopt::PARTS;
  const double seconds = timed(threads, nullptr, 0, [&](Team& team) {
    W w[PANEL * PAIR<W>];
    Input<W> x[PAIR<W>];
    for (W& one : w) one = from_float<W>(1.0f);
    for (auto& one : x) one = from_float<Input<W>>(1e-9f);
    const auto step = Dot<W>::load(w);
    const auto numbers = Dot<W>::spread(x);
    f32x16 sums[SUMS];
#pragma GCC unroll 12
    for (int s = 0; s < SUMS; ++s) sums[s] = load(out + 16 * team.rank) + float(s);
    for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
      for (int s = 0; s < SUMS; ++s) sums[s] = Dot<W>::add(sums[s], step, numbers);
    }
    f32x16 total = zeros();
#pragma GCC unroll 12
    for (int s = 0; s < SUMS; ++s) total += sums[s];
    store(out + 16 * team.rank, total);
  });
  return 2.0 * PANEL * PAIR<W> * SUMS * double(steps) * threads / seconds;
}
EXPORT double peak_float(int64_t steps, int threads, float* out) {
  return peak<float>(steps, threads, out);
}
EXPORT double peak_bf16(int64_t steps, int threads, float* out) {
  return peak<bf16>(steps, threads, out);
}
