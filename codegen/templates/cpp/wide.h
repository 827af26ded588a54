// Sixteen doubles at a time, for what sixteen floats are too narrow to decide: probabilities that
// are added up over a vocabulary, and compared.
#pragma once

#include "vec.h"

namespace gopt {

typedef double native_wide __attribute__((vector_size(4 * WIDTH)));
typedef int64_t native_long __attribute__((vector_size(4 * WIDTH)));
constexpr int HALVES = 2 * PARTS;  // registers in sixteen doubles

struct f64x16 {
  native_wide v[HALVES];
};

#define GOPT_EACH_HALF _Pragma("GCC unroll 8") for (int i = 0; i < HALVES; ++i)

GOPT_INLINE f64x16 widen(f32x16 x) {
  f64x16 y;
#if defined(GOPT_AVX512)
  const __m512 given = (__m512)x.v[0];
  y.v[0] = (native_wide)_mm512_cvtps_pd(_mm512_castps512_ps256(given));
  y.v[1] = (native_wide)_mm512_cvtps_pd(_mm512_extractf32x8_ps(given, 1));
#elif defined(GOPT_AVX2)
  GOPT_EACH {
    const __m256 given = (__m256)x.v[i];
    y.v[2 * i] = (native_wide)_mm256_cvtps_pd(_mm256_castps256_ps128(given));
    y.v[2 * i + 1] = (native_wide)_mm256_cvtps_pd(_mm256_extractf128_ps(given, 1));
  }
#else
  GOPT_EACH_HALF {
    for (int j = 0; j < WIDTH / 2; ++j) y.v[i][j] = x.v[i / 2][i % 2 * (WIDTH / 2) + j];
  }
#endif
  return y;
}
GOPT_INLINE f64x16& operator+=(f64x16& a, f64x16 b) {
  GOPT_EACH_HALF a.v[i] += b.v[i];
  return a;
}
GOPT_INLINE f64x16 operator-(f64x16 a, double b) {
  GOPT_EACH_HALF a.v[i] -= b;
  return a;
}
GOPT_INLINE double sum(f64x16 a) {
  native_wide t = a.v[0];
  for (int i = 1; i < HALVES; ++i) t += a.v[i];
  double s = 0;
  for (int j = 0; j < WIDTH / 2; ++j) s += t[j];
  return s;
}
GOPT_INLINE void store(double* p, f64x16 x) {
  GOPT_EACH_HALF std::memcpy(p + WIDTH / 2 * i, &x.v[i], sizeof x.v[i]);
}

GOPT_INLINE native_wide fma(native_wide a, native_wide b, native_wide c) {
#if defined(GOPT_AVX512)
  return (native_wide)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(GOPT_AVX2)
  return (native_wide)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// exp(x) for x <= 0, to about 2 units in the last place; 0 below -708, where normal numbers end.
//
// With n the integer nearest to x / ln 2 and r = x - n ln 2, exp(x) = 2^n (1 + r + r^2 q(r)). The
// polynomial q has the least relative error, 2e-17, on |r| <= ln 2 / 2. Adding 3 * 2^51 rounds to
// an integer and leaves it in the low bits, from where it is shifted into the exponent.
GOPT_INLINE f64x16 exp_negative(f64x16 x) {
  constexpr double Q[] = {
      0x1.af38a9b0ec855p-26, 0x1.289185613a3d6p-22, 0x1.71de0dae63bb3p-19, 0x1.a019b90d2ae7ap-16,
      0x1.a01a01a7c41d5p-13, 0x1.6c16c1788bd90p-10, 0x1.11111111109b3p-7,  0x1.5555555553d63p-5,
      0x1.5555555555556p-3,  0x1.0000000000001p-1};
  constexpr double LEAST = -708.0, LOG2_E = 0x1.71547652b82fep+0, ROUND = 0x1.8p52;
  constexpr double LN2_HIGH = 0x1.62e42feep-1, LN2_LOW = 0x1.a39ef35793c76p-33;
  const native_wide zero = {};
  GOPT_EACH_HALF {
    const native_wide given = x.v[i];
    const native_wide within = given < LEAST ? zero + LEAST : given;
    const native_wide shifted = fma(within, zero + LOG2_E, zero + ROUND);
    const native_wide n = shifted - ROUND;
    native_wide r = fma(n, zero - LN2_HIGH, within);
    r = fma(n, zero - LN2_LOW, r);
    native_wide q = zero + Q[0];
    _Pragma("GCC unroll 9") for (int k = 1; k < 10; ++k) q = fma(q, r, zero + Q[k]);
    const native_wide y = fma(q, r * r, r) + 1.0;
    const native_long bits = (native_long)y + ((native_long)shifted << 52);
    x.v[i] = given < LEAST ? zero : (native_wide)bits;
  }
  return x;
}

}  // namespace gopt
