// Linear maps over packed weights, with whatever comes before and after them.
//
//   y[r, j] = sum_k x[r, k] w[j, k]      for one to several parts of a weight at once
//
// Up to FEW_ROWS rows, reading the weights is what takes the time: each thread makes all rows of x
// for itself, then walks through its own share of the panels. With more rows, arithmetic does: all
// threads make rows of x for all, meet, and take blocks of rows and panels from a grid.
#pragma once

#include "gemm_block.h"
#include "parallel.h"

namespace gopt {

constexpr int64_t FEW_ROWS = 16;

// Bytes that all threads share, and bytes that each has for itself.
constexpr int64_t linear_workspace(int64_t rows, int64_t k) { return 4 * rows * row_stride(k); }
constexpr int64_t linear_scratch(int64_t k) {
  return 4 * (FEW_ROWS + 1) * row_stride(k) + BLOCK_SCRATCH;
}

// One row of x from `fill`, which writes k elements: of Input<W>, if it takes a pointer to that, or
// else of the other of float and bf16, for which `spare` has room.
template <class W, class Fill>
inline void fill_row(const Fill& fill, int64_t row, int64_t k, Input<W>* out, char* spare) {
  using Other = std::conditional_t<std::is_same_v<Input<W>, float>, bf16, float>;
  if constexpr (std::is_invocable_v<const Fill&, int64_t, Input<W>*>) {
    fill(row, out);
  } else {
    Other* given = reinterpret_cast<Other*>(spare);
    fill(row, given);
    for (int64_t i = 0; i < k; i += LANES) {
      const int n = int(k - i < LANES ? k - i : LANES);
      store_n(out + i, load_n(given + i, n), n);
    }
  }
  for (int64_t i = k; i < padded<W>(k); ++i) out[i] = Input<W>{};
}

// Every thread of the team calls this; the kernel's barrier follows.
//
//   fill(row, out): writes the k numbers of a row of x, see fill_row
//   store(row, column, count, acc): see `multiply`
//   workspace: linear_workspace(rows, k) bytes, aligned to 64; team.scratch: linear_scratch(k)
template <class W, int N, class Fill, class Store>
inline void linear(const Step&, Team& team, int64_t rows, const Panels<W> (&w)[N],
                   const Fill& fill, const Store& store, void* workspace) {
  if (rows == 0) return;
  const int64_t k = w[0].k, stride = row_stride(k);
  char* spare = team.scratch + 4 * FEW_ROWS * stride;
  char* scratch = spare + 4 * stride;
  int64_t first, last;
  if (rows <= FEW_ROWS) {
    auto* x = reinterpret_cast<Input<W>*>(team.scratch);
    for (int64_t r = 0; r < rows; ++r) fill_row<W>(fill, r, k, x + r * stride, spare);
    team.share(w[0].count(), 1, first, last);
    multiply(x, stride, rows, w, first, last, scratch, store);
    return;
  }
  auto* x = static_cast<Input<W>*>(workspace);
  team.share(rows, 1, first, last);
  for (int64_t r = first; r < last; ++r) fill_row<W>(fill, r, k, x + r * stride, spare);
  team.barrier();

  // The grid: the blocks of rows of one group of panels follow one another, so that a thread reads
  // its panels once. At least four cells for each thread, if there are rows enough.
  constexpr int GROUP = PART_PANELS<N>;
  const int64_t groups = (w[0].count() + GROUP - 1) / GROUP;
  int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  const int64_t wanted = (4 * team.size + groups - 1) / groups;
  const int64_t most = (rows + FEW_ROWS - 1) / FEW_ROWS;
  if (blocks < wanted) blocks = wanted < most ? wanted : most;
  team.share(groups * blocks, 1, first, last);
  for (int64_t cell = first; cell < last; ++cell) {
    const int64_t panel = cell / blocks * GROUP, b = cell % blocks;
    const int64_t from = rows * b / blocks, to = rows * (b + 1) / blocks;
    const int64_t left = w[0].count() - panel;
    block(x + from * stride, stride, from, to - from, w, panel, int(left < GROUP ? left : GROUP),
          scratch, store);
  }
}

}  // namespace gopt
