// The inside of a matrix product: sums of ROWS rows of x with PANELS panels, kept in registers.
//
//   sums[r][p][lane] = sum_k x[r, k] * panel_p[lane, k]
//
// Weights of bf16 meet bf16 where the instruction set multiplies pairs of it and adds them up in
// f32; everything else is multiplied in f32.
#pragma once

#include "pack.h"

namespace gopt {

// How a step of a panel meets PAIR numbers of a row: x has elements of type Input; `load` takes the
// step, `spread` gives the row's numbers to all lanes, `add` multiplies and accumulates.
template <class W>
struct Dot {
  using Input = float;
  struct Step {
    f32x16 even, odd;
  };
  static GOPT_INLINE Step load(const W* w) {
    Step step;
    split(w, step.even, step.odd);
    return step;
  }
  static GOPT_INLINE Step spread(const float* x) { return {splat(x[0]), splat(x[1])}; }
  static GOPT_INLINE f32x16 add(f32x16 sum, Step w, Step x) {
    return fma(w.odd, x.odd, fma(w.even, x.even, sum));
  }
};

template <>
struct Dot<float> {
  using Input = float;
  using Step = f32x16;
  static GOPT_INLINE Step load(const float* w) { return gopt::load(w); }
  static GOPT_INLINE Step spread(const float* x) { return splat(*x); }
  static GOPT_INLINE f32x16 add(f32x16 sum, Step w, Step x) { return fma(w, x, sum); }
};

#if defined(GOPT_AVX512)
template <>
struct Dot<bf16> {
  using Input = bf16;
  using Step = __m512bh;
  static GOPT_INLINE Step load(const bf16* w) { return (__m512bh)_mm512_loadu_si512(w); }
  static GOPT_INLINE Step spread(const bf16* x) {
    int32_t pair;
    std::memcpy(&pair, x, 4);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static GOPT_INLINE f32x16 add(f32x16 sum, Step w, Step x) {
    return {(native)_mm512_dpbf16_ps((__m512)sum.v[0], w, x)};
  }
};
#endif

// What a row of x is made of for weights of type W.
template <class W>
using Input = typename Dot<W>::Input;

// Tiles, by registers: 32 of sixteen floats with AVX-512; 16 of eight with AVX2, where a row of a
// tile takes two; 16 of four without, where it takes four. The highest tile suits few rows, whose
// weights come from memory, as STREAMS panels; the widest many rows: it loads the fewest operands.
#if defined(GOPT_AVX512)
constexpr int TILE_ROWS = 8, STREAMS = 2;
constexpr int WIDE_ROWS = 6, WIDE_PANELS = 4;
#elif defined(GOPT_AVX2)
constexpr int TILE_ROWS = 6, STREAMS = 1;
constexpr int WIDE_ROWS = 6, WIDE_PANELS = 1;
#else
constexpr int TILE_ROWS = 3, STREAMS = 1;
constexpr int WIDE_ROWS = 3, WIDE_PANELS = 1;
#endif

// Weights asked for and not used yet, of all panels of a tile. One thread of a Zen 5 with two
// panels, bf16, against a plain read, best of twelve: 1 row reads at 103 to 110 % of its speed with
// this, at 99 to 108 % with twice; 8 rows at 89 to 98 %, and at 76 to 84 % with half.
constexpr int64_t AHEAD_BYTES = 8192;

// What tiles ask for. Weights that one tile uses are asked for a little ahead, those that several
// use, one after another, by another of them for each panel: all that comes next.
struct Ahead {
  int64_t next;     // elements from the start of this in a panel to the start of what comes next
  int tile, tiles;  // which of those that use these weights
};

// Sums over k columns, which is a multiple of PAIR; `onto` what `sums` holds, or from zero. Row r
// of x is at x + r * stride, its sums at sums + r * sums_stride, sixteen for each panel in turn.
template <class W, int ROWS, int PANELS>
__attribute__((noinline)) void tile(const Input<W>* x, int64_t stride, const W* const* panels,
                                    int64_t k, Ahead ahead, float* sums, int64_t sums_stride,
                                    bool onto) {
  constexpr int64_t AHEAD = AHEAD_BYTES / PANELS / int64_t(PANEL * sizeof(W));  // columns
  f32x16 acc[ROWS][PANELS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p)
      acc[r][p] = onto ? load(sums + r * sums_stride + p * PANEL) : zeros();
  const W* w[PANELS];
  for (int p = 0; p < PANELS; ++p) w[p] = panels[p];
  // Near the end of its panels, the only tile asks for the beginning of the next.
  const int64_t turn = ahead.tiles == 1 && k > AHEAD ? k - AHEAD : 0;
  const int64_t ends[2] = {turn, k};
  int64_t i = 0;
  for (int half = 0; half < 2; ++half) {
    int64_t distance[PANELS];
    for (int p = 0; p < PANELS; ++p) {
      const bool mine = p % ahead.tiles == ahead.tile;
      distance[p] = half == 0 ? AHEAD * PANEL : mine ? ahead.next - turn * PANEL : 0;
    }
    const int64_t end = ends[half];
    for (; i < end; i += PAIR<W>) {
      typename Dot<W>::Step step[PANELS];
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        step[p] = Dot<W>::load(w[p]);
        __builtin_prefetch(w[p] + distance[p]);
        w[p] += PANEL * PAIR<W>;
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const auto numbers = Dot<W>::spread(x + r * stride + i);
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) acc[r][p] = Dot<W>::add(acc[r][p], step[p], numbers);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p) store(sums + r * sums_stride + p * PANEL, acc[r][p]);
}

// `tile` for any number of rows up to TILE_ROWS and any number of panels.
template <class W, int ROWS = TILE_ROWS>
inline void tiles(int64_t rows, const Input<W>* x, int64_t stride, const W* const* panels,
                  int count, int64_t k, Ahead ahead, float* sums, int64_t sums_stride,
                  bool onto) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS)
      return tiles<W, ROWS - 1>(rows, x, stride, panels, count, k, ahead, sums, sums_stride, onto);
  }
  int p = 0;
  if constexpr (WIDE_PANELS > STREAMS && ROWS <= WIDE_ROWS && 2 * ROWS >= WIDE_ROWS)
    for (; p + WIDE_PANELS <= count; p += WIDE_PANELS)
      tile<W, ROWS, WIDE_PANELS>(x, stride, panels + p, k, ahead, sums + p * PANEL, sums_stride,
                                 onto);
  for (; p + STREAMS <= count; p += STREAMS)
    tile<W, ROWS, STREAMS>(x, stride, panels + p, k, ahead, sums + p * PANEL, sums_stride, onto);
  for (; p < count; ++p)
    tile<W, ROWS, 1>(x, stride, panels + p, k, ahead, sums + p * PANEL, sums_stride, onto);
}

}  // namespace gopt
