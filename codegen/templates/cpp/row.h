// Loops over the columns of a row, sixteen floats at a time, and what generated row programs call.
//
// `columns(count, f)` calls f(i, n) for i = 0, 16, ..: columns [i, i + n) are f's. n is 16 as a
// constant of the type but for the last call, so that loads and stores need no test inside.
// Folds take sixteen numbers from f(i, n), of which the first n count.
#pragma once

#include <algorithm>
#include <climits>
#include <type_traits>

#include "math.h"
#include "parallel.h"

namespace gopt {

constexpr std::integral_constant<int, LANES> ALL_LANES{};

// Columns [first, first + count).
template <class F>
GOPT_INLINE void columns(int64_t first, int64_t count, const F& f) {
  const int64_t last = first + count;
  int64_t i = first;
  for (; i + LANES <= last; i += LANES) f(i, ALL_LANES);
  if (i < last) f(i, int(last - i));
}
template <class F>
GOPT_INLINE void columns(int64_t count, const F& f) {
  columns(0, count, f);
}

// The lanes before n of x, others elsewhere.
GOPT_INLINE f32x16 keep(f32x16 x, int n, float others) {
  alignas(64) float lanes[LANES];
  store(lanes, splat(others));
  store_n(lanes, x, n);
  return load(lanes);
}

// Sums run in two registers, so that an addition need not wait for the one before.
template <class F>
GOPT_INLINE float sum_columns(int64_t count, const F& f) {
  f32x16 even = zeros(), odd = zeros();
  int64_t i = 0;
  for (; i + 2 * LANES <= count; i += 2 * LANES) {
    even += f(i, ALL_LANES);
    odd += f(i + LANES, ALL_LANES);
  }
  if (i + LANES <= count) {
    even += f(i, ALL_LANES);
    i += LANES;
  }
  if (i < count) odd += keep(f(i, int(count - i)), int(count - i), 0.f);
  return sum(even + odd);
}

template <class F, class Join>
GOPT_INLINE float fold_columns(int64_t count, float nothing, const F& f, const Join& join) {
  f32x16 all = splat(nothing);
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) all = join(all, f(i, ALL_LANES));
  if (i < count) all = join(all, keep(f(i, int(count - i)), int(count - i), nothing));
  alignas(64) float lanes[LANES];
  store(lanes, all);
  float result = lanes[0];
  for (int lane = 1; lane < LANES; ++lane) result = join(result, lanes[lane]);
  return result;
}
// The greatest and the least; NaN if one is.
template <class F>
GOPT_INLINE float max_columns(int64_t count, const F& f) {
  return fold_columns(count, -INF, f, [](auto a, auto b) { return maximum(a, b); });
}
template <class F>
GOPT_INLINE float min_columns(int64_t count, const F& f) {
  return fold_columns(count, INF, f, [](auto a, auto b) { return minimum(a, b); });
}
template <class F>
GOPT_INLINE float product_columns(int64_t count, const F& f) {
  return fold_columns(count, 1.f, f, [](auto a, auto b) { return a * b; });
}

// One number, rounded to the type of what p points to.
template <class T>
GOPT_INLINE void put(T* p, float x) {
  *p = from_float<T>(x);
}

// ---- Lines: functions of `count` numbers side by side ------------------------------------------

// Whether a comes before b among the greatest; NaN is greater than all, as in PyTorch.
template <class T>
GOPT_INLINE bool is_greater(T a, T b) {
  return a > b || (a != a && b == b);
}

// The first position of the greatest.
template <class T>
void argmax(const T* x, int64_t count, int64_t* out) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i)
    if (is_greater(x[i], x[best])) best = i;
  *out = best;
}

template <class T, class Sum>
void running_sum(const T* x, int64_t count, Sum* out) {
  using Wide = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;
  Wide total = 0;
  for (int64_t i = 0; i < count; ++i) out[i] = Sum(total += x[i]);
}

// The k greatest (or least) in order, and where they stand; of equal ones the first comes first.
template <class T>
void top_k(const T* x, int64_t count, int64_t k, bool largest, T* values, int64_t* places) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    int64_t place = kept;
    while (place > 0 && (largest ? is_greater(x[i], values[place - 1])
                                 : is_greater(values[place - 1], x[i])))
      --place;
    if (place == k) continue;
    if (kept < k) ++kept;
    for (int64_t j = kept - 1; j > place; --j) {
      values[j] = values[j - 1];
      places[j] = places[j - 1];
    }
    values[place] = x[i];
    places[place] = i;
  }
}

// All in order, and where they stood; equal ones keep their order.
template <class T>
void sort_line(const T* x, int64_t count, bool descending, T* values, int64_t* places) {
  for (int64_t i = 0; i < count; ++i) places[i] = i;
  const auto before = [&](int64_t a, int64_t b) {
    if (descending ? is_greater(x[a], x[b]) : is_greater(x[b], x[a])) return true;
    if (descending ? is_greater(x[b], x[a]) : is_greater(x[a], x[b])) return false;
    return a < b;
  };
  std::sort(places, places + count, before);
  for (int64_t i = 0; i < count; ++i) values[i] = x[places[i]];
}

}  // namespace gopt
