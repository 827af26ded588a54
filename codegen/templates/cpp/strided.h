// A matrix somewhere in a tensor, whose rows and columns are any distance apart.
#pragma once

#include "gemm_tile.h"

namespace gopt {

// Element i, j lies at data[i * row + j * column].
template <class T>
struct Strided {
  const T* data;
  int64_t row, column;

  T operator()(int64_t i, int64_t j) const { return data[i * row + j * column]; }
};

// Numbers of row i of x, from column j on, as floats or bf16.
template <class T, class To>
inline void take_row(const Strided<T>& x, int64_t i, int64_t j, int64_t count, To* out) {
  const T* from = x.data + i * x.row + j * x.column;
  if (x.column != 1) {
    for (int64_t c = 0; c < count; ++c) out[c] = from_float<To>(to_float(from[c * x.column]));
  } else if constexpr (std::is_same_v<T, To>) {
    std::memcpy(out, from, count * sizeof(T));
  } else {
    for (int64_t c = 0; c < count; c += LANES) {
      const int n = int(count - c < LANES ? count - c : LANES);
      store_n(out + c, load_n(from + c, n), n);
    }
  }
}

// Row i of x for products with weights of type W: k numbers, and zeros up to whole pairs.
template <class W, class T>
inline void take_input(const Strided<T>& x, int64_t i, int64_t k, Input<W>* out) {
  take_row(x, i, 0, k, out);
  for (int64_t j = k; j < padded<W>(k); ++j) out[j] = Input<W>{};
}

// Every STEP-th of the numbers at p, n of them up to sixteen.
template <int STEP, class T>
inline f32x16 load_every(const T* p, int n) {
  alignas(64) float lanes[LANES] = {};
  for (int i = 0; i < n; ++i) lanes[i] = to_float(p[STEP * i]);
  return load(lanes);
}

}  // namespace gopt
