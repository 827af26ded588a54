// A block of a matrix product: some rows of x, which are ready, times some panels, on one thread.
//
//   y[r, j] = sum_k x[r, k] w[j, k]      x: Input<W>[rows, stride], w: panels, y: given to `store`
//
// Experts and products of single heads are made of this as well as linear maps.
#pragma once

#include "gemm_tile.h"

namespace gopt {

// Rows of a block: what is read of a panel is used so often while the second-level cache holds it.
constexpr int BLOCK_ROWS = 128;
// Columns of a block, over all parts.
constexpr int BLOCK_COLUMNS = 4 * PANEL;
// Columns of x and w at a time: the first-level cache then holds the rows of a tile, the
// second holds four panels.
template <class W>
constexpr int64_t BLOCK_K = 4096 / int64_t(sizeof(W));
// With so many rows, sixteen-bit weights that cannot be multiplied as they are become floats once.
// With AVX2 on a Zen 5 core, 32 rows reach 73 % of the peak so and 82 % without; 64 rows 81 % and
// 71 %.
constexpr int64_t WIDEN_ROWS = 48;
// Bytes of a thread that `multiply` needs: sums of a block, and panels of it widened to floats.
constexpr int64_t BLOCK_SCRATCH = 4 * BLOCK_COLUMNS * (BLOCK_ROWS + BLOCK_K<float>);

// Elements between two rows of x: whole cache lines, and not a power of two of them, which would
// have all rows of a tile in one set of the cache.
constexpr int64_t row_stride(int64_t k) { return (k + 31) / 32 * 32 + 32; }

// Panels that a block takes of each of N parts.
template <int N>
constexpr int PART_PANELS = BLOCK_COLUMNS / PANEL / N;

// Columns [from, from + k) of panels of sixteen-bit weights, as panels of floats.
template <class W>
inline void widen(const W* const* panels, int count, int64_t k, float* wide) {
  for (int p = 0; p < count; ++p)
    for (int64_t i = 0; i < k; i += PAIR<W>, wide += PAIR<W> * PANEL) {
      f32x16 even, odd;
      split(panels[p] + i * PANEL, even, odd);
      store(wide, even);
      store(wide + PANEL, odd);
    }
}

// Sums of a block in the order [rows][count][16], from tiles that are as equal as possible: the
// highest while reading weights takes the longest, then the widest. `next`: see Ahead.
template <class W>
inline void block_sums(const Input<W>* x, int64_t stride, int64_t rows, const W* const* panels,
                       int count, int64_t k, int64_t next, float* sums, bool onto) {
  const int64_t height = rows <= 2 * TILE_ROWS ? TILE_ROWS : WIDE_ROWS;
  const int64_t steps = (rows + height - 1) / height;
  const int64_t sums_stride = count * PANEL;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t from = rows * i / steps, to = rows * (i + 1) / steps;
    tiles<W>(to - from, x + from * stride, stride, panels, count, k,
             {next, int(i), int(steps)}, sums + from * sums_stride, sums_stride, onto);
  }
}

// Columns [16 * panel, 16 * (panel + width)) of every part, for up to BLOCK_ROWS rows.
template <class W, int N, class Store>
inline void block(const Input<W>* x, int64_t stride, int64_t first_row, int64_t rows,
                  const Panels<W> (&w)[N], int64_t panel, int width, char* scratch,
                  const Store& store) {
  static_assert(PART_PANELS<N> > 0, "a block has no room for so many parts");
  constexpr bool WIDENS = sizeof(W) == 2 && std::is_same_v<Input<W>, float>;
  float* sums = reinterpret_cast<float*>(scratch);
  float* wide = sums + BLOCK_ROWS * BLOCK_COLUMNS;
  const int count = N * width;
  const int64_t k = padded<W>(w[0].k);
  // One tile of rows needs no part of a panel twice.
  const bool once = rows <= TILE_ROWS;
  const bool widens = WIDENS && rows >= WIDEN_ROWS;
  const int64_t most = once ? k : (widens ? BLOCK_K<float> : BLOCK_K<W>);
  const int64_t blocks = (k + most - 1) / most;
  const int64_t units = k / PAIR<W>;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t from = units * b / blocks * PAIR<W>, to = units * (b + 1) / blocks * PAIR<W>;
    const int64_t next = (b + 1 < blocks ? to - from : width * k - from) * PANEL;
    const W* panels[N * PART_PANELS<N>];
    for (int i = 0; i < count; ++i)
      panels[i] = w[i / width].panel(panel + i % width) + from * PANEL;
    if (!widens) {
      block_sums<W>(x + from, stride, rows, panels, count, to - from, next, sums, b > 0);
    } else if constexpr (WIDENS) {
      const float* floats[N * PART_PANELS<N>];
      for (int i = 0; i < count; ++i) floats[i] = wide + i * (to - from) * PANEL;
      widen(panels, count, to - from, wide);
      block_sums<float>(x + from, stride, rows, floats, count, to - from, 0, sums, b > 0);
    }
  }
  const int64_t first = panel * PANEL;
  const int columns = int(w[0].n - first < width * PANEL ? w[0].n - first : width * PANEL);
  for (int64_t r = 0; r < rows; ++r) {
    const float* acc[N];
    for (int i = 0; i < N; ++i) acc[i] = sums + (r * count + i * width) * PANEL;
    store(first_row + r, first, columns, static_cast<const float* const*>(acc));
  }
}

// Panels [first, last) of every part, for any number of rows; all parts have the same shape.
//
//   x: rows of Input<W>, `stride` elements apart (row_stride is a good distance), each with a zero
//     after K where K is no multiple of PAIR
//   store(row, column, count, acc): takes columns [column, column + count) of every part, where
//     `column` is a multiple of sixteen and count <= BLOCK_COLUMNS: acc[part][i], complete sums, at
//     aligned addresses with room up to the next multiple of sixteen; called once for each element
//   scratch: BLOCK_SCRATCH bytes of this thread
template <class W, int N, class Store>
inline void multiply(const Input<W>* x, int64_t stride, int64_t rows, const Panels<W> (&w)[N],
                     int64_t first, int64_t last, char* scratch, const Store& store) {
  constexpr int STREAMS_EACH = STREAMS > N ? STREAMS / N : 1;
  const int group = rows > 2 * TILE_ROWS ? PART_PANELS<N> : STREAMS_EACH;
  const int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  for (int64_t panel = first; panel < last; panel += group) {
    const int width = int(last - panel < group ? last - panel : group);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = rows * b / blocks, to = rows * (b + 1) / blocks;
      block(x + from * stride, stride, from, to - from, w, panel, width, scratch, store);
    }
  }
}

}  // namespace gopt
