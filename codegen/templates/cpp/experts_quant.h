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

// The second layer and the weighted sum of each token: this thread's columns of y.
template <class Q, class Share, class Bias, class Y>
inline void quant_experts_second(const Team& team, const ExpertSizes& n, const Routes& routes,
                                 char* rounded, const Q* second, const Share& share,
                                 const Bias& bias, float* totals, Y* y) {
  const Panels<Q> all{second, n.hidden, n.narrow};
  const int64_t stride = rounded_bytes<Q>(n.narrow), totals_stride = row_stride(n.hidden);
  int64_t from, to;
  team.share(all.count(), 1, from, to);
  const int64_t begin = from * PANEL, end = to * PANEL < n.hidden ? to * PANEL : n.hidden;
  if (begin >= end) return;
  for (int64_t t = 0; t < n.tokens; ++t)
    std::memset(totals + t * totals_stride + begin, 0, (to - from) * PANEL * 4);
  for (int64_t e = 0; e < n.experts; ++e) {
    const int64_t start = routes.starts[e], count = routes.count(e);
    if (count == 0) continue;
    const Panels<Q> w[1] = {
        {reinterpret_cast<const Q*>(all.panel(e * all.count())), n.hidden, n.narrow}};
    expert_block<Q>(w, from, to, count, rounded + start * stride,
                    [&](int64_t row, int64_t column, int columns, const float* const* sums) {
                      const int32_t pair = routes.pairs[start + row];
                      const int64_t token = pair / n.chosen;
                      const f32x16 factor = splat(to_float(share(token, pair % n.chosen)));
                      const f32x16 result = load(sums[0]) + bias(e, column, columns);
                      float* total = totals + token * totals_stride + column;
                      store(total, fma(factor, result, load(total)));
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
  quant_experts_second(team, n, routes, rounded, second, share, bias, totals, y);
}

}  // namespace gopt
