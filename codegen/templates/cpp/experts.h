// A layer of experts: each token goes through the few that are named for it.
//
//   y[t, :] = sum_j share[t, j] * (gate(x[t, :] @ first[e].T) @ second[e].T + bias[e]),  e = ids[t, j]
//
//   x[T, H], ids[T, k], share[T, k], first[E, PARTS * F, H], second[E, H, F] in panels, y[T, H];
//   an id outside 0..E-1 goes to no expert
//
// The pairs of a token and an expert are grouped by expert. Then all threads walk through the experts
// that have tokens, each through its own panels of every one: a weight is read once for up to
// BLOCK_ROWS tokens, which is what bounds few tokens; the tiles of gemm_block.h bound many. In the
// second layer a thread adds up its own columns of y, expert by expert and, of one expert, in the
// order of `ids`: the sum of a token is the same for any number of threads.
#pragma once

#include "gemm_block.h"
#include "parallel.h"
#include "strided.h"

namespace gopt {

struct ExpertSizes {
  int64_t tokens, chosen, experts, hidden, narrow;  // T, k, E, H, F

  constexpr int64_t pairs() const { return tokens * chosen; }
};

// Bytes that all threads share, and that each has for itself.
constexpr int64_t experts_workspace(const ExpertSizes& n) {
  return 4 * (n.pairs() * row_stride(n.narrow) + n.tokens * row_stride(n.hidden) +
              row_stride(n.experts) + n.pairs());
}
constexpr int64_t experts_scratch(int64_t hidden) {
  return 4 * BLOCK_ROWS * row_stride(hidden) + BLOCK_SCRATCH;
}

// The pairs of each expert, which are numbered token * k + place: pairs[starts[e]] and on.
struct Routes {
  int32_t* starts;  // [E + 1]
  int32_t* pairs;

  int64_t count(int64_t expert) const { return starts[expert + 1] - starts[expert]; }
};

// Groups the pairs by expert, in order; one thread's work.
template <class Id>
inline void route(const ExpertSizes& n, const Strided<Id>& ids, const Routes& routes) {
  const auto each = [&](const auto& with) {
    for (int64_t t = 0, pair = 0; t < n.tokens; ++t)
      for (int64_t j = 0; j < n.chosen; ++j, ++pair) {
        const int64_t expert = ids(t, j);
        if (expert >= 0 && expert < n.experts) with(expert, int32_t(pair));
      }
  };
  int32_t* const starts = routes.starts;
  for (int64_t e = 0; e <= n.experts; ++e) starts[e] = 0;
  each([&](int64_t e, int32_t) { ++starts[e + 1]; });
  for (int64_t e = 0; e < n.experts; ++e) starts[e + 1] += starts[e];
  each([&](int64_t e, int32_t pair) { routes.pairs[starts[e]++] = pair; });
  for (int64_t e = n.experts; e > 0; --e) starts[e] = starts[e - 1];
  starts[0] = 0;
}

// This thread's panels of the expert that is the `number`th with tokens: shares rotate, so that what
// does not divide evenly falls to another thread each time.
inline void expert_share(Team team, int64_t number, int64_t panels, int64_t& first, int64_t& last) {
  team.rank = int((team.rank + number) % team.size);
  team.share(panels, 1, first, last);
}

// The first layer: gate(x @ first.T) of every pair, in the order of the routes, at `inner`.
template <int PARTS, class W, class Gate>
inline void experts_first(Team& team, const ExpertSizes& n, const Routes& routes,
                          const Strided<W>& x, const W* first, const Gate& gate, Input<W>* inner) {
  const int64_t stride = row_stride(n.hidden), inner_stride = row_stride(n.narrow);
  auto* rows = reinterpret_cast<Input<W>*>(team.scratch);
  char* scratch = team.scratch + 4 * BLOCK_ROWS * stride;
  Panels<W> w[PARTS];
  for (auto& part : w) part = {first, n.narrow, n.hidden};
  const int64_t part_size = w[0].count() * PANEL * padded<W>(n.hidden);
  for (int64_t e = 0, number = 0; e < n.experts; ++e) {
    const int64_t start = routes.starts[e], count = routes.count(e);
    if (count == 0) continue;
    int64_t from, to;
    expert_share(team, number++, w[0].count(), from, to);
    if (from == to) continue;
    for (int p = 0; p < PARTS; ++p) w[p].data = first + (e * PARTS + p) * part_size;
    int64_t place = start;  // of the first row of a block
    const auto store = [&](int64_t row, int64_t column, int columns, const float* const* sums) {
      Input<W>* out = inner + (place + row) * inner_stride + column;
      for (int i = 0; i < columns; i += LANES) {
        const int lanes = columns - i < LANES ? columns - i : LANES;
        f32x16 wide[PARTS];
        for (int p = 0; p < PARTS; ++p) wide[p] = load(sums[p] + i);
        store_n(out + i, gate(e, column + i, lanes, wide), lanes);
      }
      if (column + columns == n.narrow)
        for (int64_t i = n.narrow; i < padded<W>(n.narrow); ++i) out[i - column] = Input<W>{};
    };
    for (; place < start + count; place += BLOCK_ROWS) {
      const int64_t left = start + count - place;
      const int64_t block = left < BLOCK_ROWS ? left : BLOCK_ROWS;
      for (int64_t r = 0; r < block; ++r)
        take_input<W>(x, routes.pairs[place + r] / n.chosen, n.hidden, rows + r * stride);
      multiply(rows, stride, block, w, from, to, scratch, store);
    }
  }
}

// The second layer and the weighted sum of each token: this thread's columns of y.
//
//   second: the panels of the first expert; the others' follow
//   multiply(w, from, to, start, count, store): panels [from, to) by `count` rows from `start` on
template <class W, class Share, class Bias, class Y, class Multiply>
inline void experts_second(Team team, const ExpertSizes& n, const Routes& routes,
                           const Panels<W>& second, const Share& share, const Bias& bias,
                           float* totals, Y* y, const Multiply& multiply) {
  const int64_t totals_stride = row_stride(n.hidden);
  int64_t from, to;
  team.share(second.count(), 1, from, to);
  const int64_t begin = from * PANEL, end = to * PANEL < n.hidden ? to * PANEL : n.hidden;
  if (begin >= end) return;
  for (int64_t t = 0; t < n.tokens; ++t)
    std::memset(totals + t * totals_stride + begin, 0, (to - from) * PANEL * 4);
  for (int64_t e = 0; e < n.experts; ++e) {
    const int64_t start = routes.starts[e], count = routes.count(e);
    if (count == 0) continue;
    const auto* data = reinterpret_cast<const W*>(second.panel(e * second.count()));
    const Panels<W> w[1] = {{data, n.hidden, n.narrow}};
    multiply(w, from, to, start, count,
             [&](int64_t row, int64_t column, int columns, const float* const* sums) {
               const int32_t pair = routes.pairs[start + row];
               const int64_t token = pair / n.chosen;
               const f32x16 factor = splat(to_float(share(token, pair % n.chosen)));
               float* total = totals + token * totals_stride + column;
               for (int i = 0; i < columns; i += LANES) {
                 const int lanes = columns - i < LANES ? columns - i : LANES;
                 const f32x16 result = load(sums[0] + i) + bias(e, column + i, lanes);
                 store(total + i, fma(factor, result, load(total + i)));
               }
             });
  }
  for (int64_t t = 0; t < n.tokens; ++t)
    for (int64_t c = begin; c < end; c += LANES) {
      const int lanes = int(end - c < LANES ? end - c : LANES);
      store_n(y + t * n.hidden + c, load(totals + t * totals_stride + c), lanes);
    }
}

// Every thread of the team calls this; the kernel's barrier follows.
//
//   gate(expert, column, count, wide): F's numbers from `column` on, of those of the PARTS parts
//   bias(expert, column, count): what is added to H's numbers from `column` on
//   workspace: experts_workspace(n) bytes, aligned to 64; team.scratch: experts_scratch(H)
template <int PARTS, class W, class Id, class Share, class Gate, class Bias>
inline void experts(Team& team, const ExpertSizes& n, const Strided<W>& x, const Strided<Id>& ids,
                    const Share& share, const W* first, const W* second, const Gate& gate,
                    const Bias& bias, W* y, void* workspace) {
  if (n.tokens == 0) return;
  float* const inner = static_cast<float*>(workspace);
  float* const totals = inner + n.pairs() * row_stride(n.narrow);
  auto* const starts = reinterpret_cast<int32_t*>(totals + n.tokens * row_stride(n.hidden));
  const Routes routes{starts, starts + row_stride(n.experts)};
  if (team.rank == 0) route(n, ids, routes);
  team.barrier();
  auto* const rows = reinterpret_cast<Input<W>*>(inner);
  experts_first<PARTS>(team, n, routes, x, first, gate, rows);
  team.barrier();
  const int64_t stride = row_stride(n.narrow);
  const auto by_rows = [&](const auto& w, int64_t from, int64_t to, int64_t start, int64_t count,
                           const auto& store) {
    multiply(rows + start * stride, stride, count, w, from, to, team.scratch, store);
  };
  experts_second(team, n, routes, Panels<W>{second, n.hidden, n.narrow}, share, bias, totals, y,
                 by_rows);
}

}  // namespace gopt
