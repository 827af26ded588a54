// A layer of experts with weights of 8 or 4 bits: as experts.h, on products as gemm_quant.h's.
//
//   y[t, :] = sum_j share[t, j] * (gate(x'[t, :] @ first[e].T)' @ second[e].T + bias[e]),
//   e = ids[t, j]; a ' rounds a row as `quantized_linear` does
//
//   first[E, PARTS * F, H], second[E, H, F] in panels with their scales, one expert after the other
//
// Rows are rounded once for all threads, in the order of the routes: an expert's rows follow one
// another, as tiles want them. So there are four barriers: after the routes, rounding x, the first
// layer, and rounding what it gave. The second layer's sums have experts.h's order.
#pragma once

#include "experts.h"
#include "gemm_quant.h"

namespace gopt {

// Bytes between two rounded rows, of either layer: one has gone when the other comes.
template <class Q>
constexpr int64_t expert_row_bytes(const ExpertSizes& n) {
  const int64_t wide = rounded_bytes<Q>(n.hidden), narrow = rounded_bytes<Q>(n.narrow);
  return wide > narrow ? wide : narrow;
}
// Numbers between two rows that the second layer reads, with zeros up to whole groups.
template <class Q>
constexpr int64_t inner_stride(const ExpertSizes& n) {
  return Q::groups(n.narrow) * Q::group;
}

// Bytes that all threads share, and that each has for itself.
template <class Q>
constexpr int64_t quant_experts_workspace(const ExpertSizes& n) {
  return n.pairs() * (expert_row_bytes<Q>(n) + 4 * inner_stride<Q>(n)) +
         4 * (n.tokens * row_stride(n.hidden) + row_stride(n.experts) + n.pairs());
}
template <class Q>
constexpr int64_t quant_experts_scratch(int64_t hidden) {
  return 4 * Q::groups(hidden) * Q::group;
}

// Panels [from, to) of every part by all rows of an expert.
template <class Q, int PARTS, class Store>
inline void expert_block(const Panels<Q> (&w)[PARTS], int64_t from, int64_t to, int64_t rows,
                         char* rounded, const Store& store) {
  const int64_t step =
      rows <= QUANT_FEW ? 1 : QUANT_BLOCK / (PARTS * Q::panel_bytes(w[0].k)) + 1;
  for (int64_t j = from; j < to; j += step)
    quant_block<Q>(w, j, j + step < to ? j + step : to, rows, rounded, store);
}

// The first layer: gate(x' @ first.T) of every pair, in the order of the routes, at `inner`.
template <class Q, int PARTS, class Gate>
inline void quant_experts_first(const Team& team, const ExpertSizes& n, const Routes& routes,
                                char* rounded, const Q* first, const Gate& gate, float* inner) {
  const Panels<Q> all{first, n.narrow, n.hidden};
  const int64_t stride = rounded_bytes<Q>(n.hidden);
  for (int64_t e = 0, number = 0; e < n.experts; ++e) {
    const int64_t start = routes.starts[e], count = routes.count(e);
    if (count == 0) continue;
    int64_t from, to;
    expert_share(team, number++, all.count(), from, to);
    Panels<Q> w[PARTS];
    for (int p = 0; p < PARTS; ++p)
      w[p] = {reinterpret_cast<const Q*>(all.panel((e * PARTS + p) * all.count())), n.narrow,
              n.hidden};
    expert_block<Q>(w, from, to, count, rounded + start * stride,
                    [&](int64_t row, int64_t column, int columns, const float* const* sums) {
                      f32x16 wide[PARTS];
                      for (int p = 0; p < PARTS; ++p) wide[p] = load(sums[p]);
                      store_n(inner + (start + row) * inner_stride<Q>(n) + column,
                              gate(e, column, columns, wide), columns);
                    });
  }
}

// Every thread of the team calls this; the kernel's barrier follows.
//
//   gate, bias: see `experts`
//   workspace: quant_experts_workspace<Q>(n) bytes, aligned to 64
//   team.scratch: quant_experts_scratch<Q>(H) bytes
template <class Q, int PARTS, class X, class Id, class Share, class Gate, class Bias, class Y>
inline void quant_experts(Team& team, const ExpertSizes& n, const Strided<X>& x,
                          const Strided<Id>& ids, const Share& share, const Q* first,
                          const Q* second, const Gate& gate, const Bias& bias, Y* y,
                          void* workspace) {
  if (n.tokens == 0) return;
  char* const rounded = static_cast<char*>(workspace);
  auto* const inner = reinterpret_cast<float*>(rounded + n.pairs() * expert_row_bytes<Q>(n));
  float* const totals = inner + n.pairs() * inner_stride<Q>(n);
  auto* const starts = reinterpret_cast<int32_t*>(totals + n.tokens * row_stride(n.hidden));
  const Routes routes{starts, starts + row_stride(n.experts)};
  if (team.rank == 0) route(n, ids, routes);
  team.barrier();
  int64_t from, to;
  team.share(routes.starts[n.experts], 1, from, to);
  const auto take = [&](int64_t row, float* out) {
    take_row(x, routes.pairs[row] / n.chosen, 0, n.hidden, out);
  };
  round_rows<Q>(from, to, n.hidden, take, reinterpret_cast<float*>(team.scratch), rounded);
  team.barrier();
  quant_experts_first<Q, PARTS>(team, n, routes, rounded, first, gate, inner);
  team.barrier();
  for (int64_t row = from; row < to; ++row) {
    float* const numbers = inner + row * inner_stride<Q>(n);
    std::memset(numbers + n.narrow, 0, (inner_stride<Q>(n) - n.narrow) * 4);
    round_row<Q>(numbers, n.narrow, rounded + row * rounded_bytes<Q>(n.narrow));
  }
  team.barrier();
  const int64_t stride = rounded_bytes<Q>(n.narrow);
  const auto by_rows = [&](const auto& w, int64_t from, int64_t to, int64_t start, int64_t count,
                           const auto& store) {
    expert_block<Q>(w, from, to, count, rounded + start * stride, store);
  };
  experts_second(team, n, routes, Panels<Q>{second, n.hidden, n.narrow}, share, bias, totals, y,
                 by_rows);
}

}  // namespace gopt
