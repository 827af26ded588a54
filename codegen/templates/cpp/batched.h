// Many matrix products of one shape: heads by weights of their own, or by other tensors.
//
//   y[b, r, c] = sum_k x[b, r, k] w[b, c, k]       w in panels: `batched_linear`
//   y[b, r, c] = sum_k left[b, r, k] right[b, k, c]             `batched_product`
//
// Operands are matrices of any strides, which the caller finds for each b; y[batch, rows, columns]
// is contiguous. All cells of a grid of matrices, blocks of rows and groups of four panels are shared
// between the threads in this order, so that a thread makes a block of rows of x once. With few rows
// `batched_linear` is bound by reading w, with many by arithmetic; `batched_product` copies blocks of
// both operands to where tiles can read them.
#pragma once

#include "gemm_block.h"
#include "parallel.h"
#include "strided.h"

namespace gopt {

// Columns of y that a cell has: four panels.
constexpr int CELL_PANELS = BLOCK_COLUMNS / PANEL;
// Rows that are worth a block of their own.
constexpr int64_t LEAST_ROWS = 16;

// A cell's place in the grid.
struct Cell {
  int64_t batch, first_row, last_row, panel;
  int panels;
};

// Calls `each(cell)` for this thread's cells. There are at least four for each thread, if there are
// rows enough.
template <class Each>
inline void share_cells(const Team& team, int64_t batch, int64_t rows, int64_t block_rows,
                        int64_t panels, const Each& each) {
  if (rows == 0 || batch == 0) return;
  const int64_t groups = (panels + CELL_PANELS - 1) / CELL_PANELS;
  const int64_t wanted = (4 * team.size + batch * groups - 1) / (batch * groups);
  const int64_t most = (rows + LEAST_ROWS - 1) / LEAST_ROWS;
  int64_t blocks = (rows + block_rows - 1) / block_rows;
  if (blocks < wanted) blocks = wanted < most ? wanted : most;
  int64_t first, last;
  team.share(batch * blocks * groups, 1, first, last);
  for (int64_t i = first; i < last; ++i) {
    const int64_t panel = i % groups * CELL_PANELS, b = i / groups % blocks;
    const int64_t left = panels - panel;
    each(Cell{i / groups / blocks, rows * b / blocks, rows * (b + 1) / blocks, panel,
              int(left < CELL_PANELS ? left : CELL_PANELS)});
  }
}

// One row's columns of a cell, from sums to y.
template <class Y>
inline void store_columns(Y* y, const float* sums, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES)
    store_n(y + i, load(sums + i), int(count - i < LANES ? count - i : LANES));
}

// ---- With weights ------------------------------------------------------------------------------

// Bytes that each thread has for itself.
constexpr int64_t batched_linear_scratch(int64_t k) {
  return 4 * BLOCK_ROWS * row_stride(k) + BLOCK_SCRATCH;
}

// Every thread of the team calls this; the kernel's barrier follows.
//
//   left(b): the matrix x[b] as Strided, of rows of w.k numbers
//   right(b): which matrix of w, of which the first is given
//   team.scratch: batched_linear_scratch(k) bytes
template <class W, class Left, class Right>
inline void batched_linear(Team& team, int64_t batch, int64_t rows, const Left& left,
                           const Panels<W>& w, const Right& right, W* y) {
  const int64_t stride = row_stride(w.k);
  auto* x = reinterpret_cast<Input<W>*>(team.scratch);
  char* scratch = team.scratch + 4 * BLOCK_ROWS * stride;
  int64_t known_batch = -1, known_row = -1;
  share_cells(team, batch, rows, BLOCK_ROWS, w.count(), [&](const Cell& cell) {
    const int64_t count = cell.last_row - cell.first_row;
    if (cell.batch != known_batch || cell.first_row != known_row) {
      const auto matrix = left(cell.batch);
      for (int64_t r = 0; r < count; ++r)
        take_input<W>(matrix, cell.first_row + r, w.k, x + r * stride);
      known_batch = cell.batch, known_row = cell.first_row;
    }
    const Panels<W> own[1] = {{w.panel(right(cell.batch) * w.count()), w.n, w.k}};
    W* const out = y + (cell.batch * rows + cell.first_row) * w.n;
    multiply(x, stride, count, own, cell.panel, cell.panel + cell.panels, scratch,
             [&](int64_t row, int64_t column, int columns, const float* const* sums) {
               store_columns(out + row * w.n + column, sums[0], columns);
             });
  });
}

// ---- With other tensors ------------------------------------------------------------------------

// Rows of a cell, and how much of k is copied at a time: both copies fit the second-level cache.
constexpr int64_t PRODUCT_ROWS = 48;
constexpr int64_t PRODUCT_DEPTH = 256;
// Bytes that each thread has for itself: rows of left, panels of right, sums, and what `multiply`
// needs.
constexpr int64_t PRODUCT_SCRATCH =
    4 * (PRODUCT_ROWS * row_stride(PRODUCT_DEPTH) + BLOCK_COLUMNS * PRODUCT_DEPTH +
         BLOCK_COLUMNS * PRODUCT_ROWS) +
    BLOCK_SCRATCH;

// Rows k of a matrix, sixteen of its columns, as a panel of floats.
template <class T>
inline void take_panel(const Strided<T>& right, int64_t from, int64_t depth, int64_t column,
                       int lanes, float* panel) {
  for (int64_t k = 0; k < depth; ++k, panel += PANEL) {
    const T* row = right.data + (from + k) * right.row + column * right.column;
    if (right.column == 1) {
      store(panel, load_n(row, lanes));
    } else {
      for (int i = 0; i < PANEL; ++i)
        panel[i] = i < lanes ? to_float(row[i * right.column]) : 0.0f;
    }
  }
}

// Every thread of the team calls this; the kernel's barrier follows.
//
//   left(b), right(b): the matrices of b as Strided, [rows, depth] and [depth, columns]
//   team.scratch: PRODUCT_SCRATCH bytes
template <class Left, class Right, class Y>
inline void batched_product(Team& team, int64_t batch, int64_t rows, int64_t columns, int64_t depth,
                            const Left& left, const Right& right, Y* y) {
  constexpr int64_t stride = row_stride(PRODUCT_DEPTH), width = BLOCK_COLUMNS;
  auto* x = reinterpret_cast<float*>(team.scratch);
  float* const panels = x + PRODUCT_ROWS * stride;
  float* const totals = panels + width * PRODUCT_DEPTH;
  char* const scratch = reinterpret_cast<char*>(totals + width * PRODUCT_ROWS);
  const int64_t count = (columns + PANEL - 1) / PANEL;
  share_cells(team, batch, rows, PRODUCT_ROWS, count, [&](const Cell& cell) {
    const auto l = left(cell.batch);
    const auto r = right(cell.batch);
    const int64_t height = cell.last_row - cell.first_row, first = cell.panel * PANEL;
    const int64_t kept = columns - first < width ? columns - first : width;
    std::memset(totals, 0, height * width * 4);
    for (int64_t from = 0; from < depth; from += PRODUCT_DEPTH) {
      const int64_t some = depth - from < PRODUCT_DEPTH ? depth - from : PRODUCT_DEPTH;
      for (int64_t i = 0; i < height; ++i)
        take_row(l, cell.first_row + i, from, some, x + i * stride);
      for (int64_t c = 0; c < kept; c += PANEL)
        take_panel(r, from, some, first + c, int(kept - c < PANEL ? kept - c : PANEL),
                   panels + c * some);
      const Panels<float> w[1] = {{panels, kept, some}};
      multiply(x, stride, height, w, 0, cell.panels, scratch,
               [&](int64_t row, int64_t column, int sum_count, const float* const* sums) {
                 float* const total = totals + row * width + column;
                 for (int i = 0; i < sum_count; i += LANES)
                   store(total + i, load(total + i) + load(sums[0] + i));
               });
    }
    for (int64_t i = 0; i < height; ++i)
      store_columns(y + (cell.batch * rows + cell.first_row + i) * columns + first,
                    totals + i * width, kept);
  });
}

}  // namespace gopt
