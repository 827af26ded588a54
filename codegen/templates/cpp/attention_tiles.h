// The arithmetic of attention on tiles: rows of queries or probabilities times panels of keys or
// values, and the exponential function.
//
// A tile's rows are held as the factor that its instruction set multiplies with: bf16 in pairs
// where there is dpbf16, float elsewhere. A panel's element type is the state's.
#pragma once

#include "kv.h"

namespace gopt {

#if defined(GOPT_AVX512)
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, bf16>, bf16, float>;
constexpr int QUERY_ROWS = 8;     // 8 x 2 sums, 2 panels and a row's factor: half of 32 registers,
constexpr int TILE_COLUMNS = 2;  // and enough sums to hide the latency
#elif defined(GOPT_AVX2)
template <class T>
using Factor = float;
constexpr int QUERY_ROWS = 4;  // 4 x 2 sums and a pair of two registers, of 16
constexpr int TILE_COLUMNS = 1;
#else
template <class T>
using Factor = float;
constexpr int QUERY_ROWS = 2;
constexpr int TILE_COLUMNS = 1;
#endif

// ---- Sixteen lanes of a panel, one element or a pair in each ----------------------------------

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  f32x16 only;

  static GOPT_INLINE Lanes at(const float* p) { return {load(p)}; }
  GOPT_INLINE f32x16 times(const float* factor, f32x16 sum) const {
    return fma(only, splat(factor[0]), sum);
  }
};

// Both elements of each pair as floats, for kinds of numbers that are multiplied so.
struct FloatPairs {
  f32x16 even, odd;

  GOPT_INLINE f32x16 times(const float* factor, f32x16 sum) const {
    return fma(odd, splat(factor[1]), fma(even, splat(factor[0]), sum));
  }
};

GOPT_INLINE i32x16 load_pairs(const void* p) {
  i32x16 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}

#if defined(GOPT_AVX512)
template <>
struct Lanes<bf16> {
  __m512i pairs;

  static GOPT_INLINE Lanes at(const bf16* p) { return {_mm512_loadu_si512(p)}; }
  GOPT_INLINE f32x16 times(const bf16* factor, f32x16 sum) const {
    int32_t pair;
    std::memcpy(&pair, factor, sizeof pair);
    return {(native)_mm512_dpbf16_ps((__m512)sum.v[0], (__m512bh)pairs,
                                     (__m512bh)_mm512_set1_epi32(pair))};
  }
};
#else
template <>
struct Lanes<bf16> : FloatPairs {
  static GOPT_INLINE Lanes at(const bf16* p) {
    const i32x16 pairs = load_pairs(p);
    return {{bits_to_float(shift_left<16>(pairs)),
             bits_to_float(pairs & splat_int(int32_t(0xffff0000)))}};
  }
};
#endif

template <>
struct Lanes<f16> : FloatPairs {
  static GOPT_INLINE Lanes at(const f16* p) {
#if defined(GOPT_AVX512)
    const __m512i pairs = _mm512_loadu_si512(p);
    const __m512i odd = _mm512_srli_epi32(pairs, 16);
    return {{{(native)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs))},
             {(native)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(odd))}}};
#elif defined(GOPT_AVX2)
    const i32x16 pairs = load_pairs(p);
    Lanes y;
    GOPT_EACH {
      const __m256i even = _mm256_and_si256((__m256i)pairs.v[i], _mm256_set1_epi32(0xffff));
      const __m256i odd = _mm256_srli_epi32((__m256i)pairs.v[i], 16);
      // Per half: four even ones, then four odd ones.
      const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(even, odd), 0xd8);
      y.even.v[i] = (native)_mm256_cvtph_ps(_mm256_castsi256_si128(both));
      y.odd.v[i] = (native)_mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
    }
    return y;
#else
    alignas(64) float even[LANES], odd[LANES];
    for (int i = 0; i < LANES; ++i) {
      even[i] = to_float(p[2 * i]);
      odd[i] = to_float(p[2 * i + 1]);
    }
    return {{load(even), load(odd)}};
#endif
  }
};

// sum[r][c] += sum_k rows[r][k] panel_c[k], over `steps` elements or pairs k; from one to the next
// a panel goes `stride` elements further. What will be read later at the same places from `ahead`
// on is fetched meanwhile.
template <class T, int ROWS, int COLUMNS>
GOPT_INLINE void multiply(const Factor<T>* rows, int64_t row_stride,
                          const T* const (&panels)[COLUMNS], const T* const (&ahead)[COLUMNS],
                          int64_t stride, int64_t steps, f32x16 (&sum)[ROWS][COLUMNS]) {
  for (int64_t k = 0; k < steps; ++k) {
    Lanes<T> lanes[COLUMNS];
#pragma GCC unroll 2
    for (int c = 0; c < COLUMNS; ++c) {
      __builtin_prefetch(ahead[c] + k * stride);
      lanes[c] = Lanes<T>::at(panels[c] + k * stride);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Factor<T>* factor = rows + r * row_stride + k * KV_PAIR<T>;
#pragma GCC unroll 2
      for (int c = 0; c < COLUMNS; ++c) sum[r][c] = lanes[c].times(factor, sum[r][c]);
    }
  }
}

// Calls f.template operator()<ROWS>(row) for tiles that cover [0, rows); the last one may reach
// past the end, by less than QUERY_ROWS.
template <class F>
GOPT_INLINE void for_row_tiles(int64_t rows, const F& f) {
  int64_t row = 0;
  for (; rows - row >= QUERY_ROWS; row += QUERY_ROWS) f.template operator()<QUERY_ROWS>(row);
  const int64_t rest = rows - row;
  if (rest == 0) return;
  if (rest == 1) return f.template operator()<1>(row);
  if constexpr (QUERY_ROWS > 2) {
    if (rest == 2) return f.template operator()<2>(row);
    if constexpr (QUERY_ROWS > 4) {
      if (rest <= 4) return f.template operator()<4>(row);
    }
    return f.template operator()<QUERY_ROWS>(row);
  }
}

// ---- Functions ----------------------------------------------------------------------------------

// 2^x for x <= 0, within 2e-7 of it; exactly 0 below -126. NaN stays NaN.
GOPT_INLINE f32x16 exp2_negative(f32x16 x) {
#if defined(GOPT_AVX512)
  // Of two numbers of which one is NaN the second is taken.
  const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-200.f), (__m512)x.v[0]);
  const __m512 n = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const f32x16 r = {(native)_mm512_sub_ps(clamped, n)};
#else
  const i32x16 tiny = x < splat(-126.f);
  const f32x16 clamped = select(tiny, splat(-126.f), x);
  const f32x16 shift = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32x16 shifted = clamped + shift;
  const f32x16 r = clamped - (shifted - shift);
#endif
  // Taylor's series of 2^r, |r| <= 1/2, with its last coefficients moved to halve the error.
  f32x16 y = splat(1.5403530e-4f);
  y = fma(y, r, splat(1.3333558e-3f));
  y = fma(y, r, splat(9.6181291e-3f));
  y = fma(y, r, splat(5.5504109e-2f));
  y = fma(y, r, splat(2.4022651e-1f));
  y = fma(y, r, splat(6.9314718e-1f));
  y = fma(y, r, splat(1.f));
#if defined(GOPT_AVX512)
  return {(native)_mm512_scalef_ps((__m512)y.v[0], n)};
#else
  // The integer stands in the lowest bits of `shifted`; its power of two has it in the exponent.
  const f32x16 power = bits_to_float(shift_left<23>(float_to_bits(shifted) + splat_int(127)));
  return select(tiny, zeros(), y * power);
#endif
}

constexpr float LOG2_E = 1.44269504f;

// tanh(x), within 1e-7 of it.
GOPT_INLINE f32x16 tanh_bounded(f32x16 x) {
  const i32x16 negative = x < zeros();
  const f32x16 size = select(negative, -x, x);
  const f32x16 decay = exp2_negative(size * (-2.f * LOG2_E));
  const f32x16 y = (1.f - decay) / (1.f + decay);
  return select(negative, -y, y);
}

}  // namespace gopt
