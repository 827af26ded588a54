// Functions of a float, of sixteen floats, and of integers.
//
// Single floats use the C library. Sixteen at a time are computed here: the argument is brought
// into a small interval, where a polynomial of the least relative error takes over; its error is
// below a tenth of a unit in the last place, so that results are within two units, as tested on
// every instruction set. Infinities, NaN, zeros and numbers below the smallest normal come out as
// they should.
#pragma once

#include <limits>

#include "wide.h"

namespace gopt {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();

// ---- Lanes and bits ----------------------------------------------------------------------------

template <class F>
GOPT_INLINE f32x16 each_lane(f32x16 x, const F& f) {
  alignas(64) float lanes[LANES];
  store(lanes, x);
  for (int i = 0; i < LANES; ++i) lanes[i] = f(lanes[i]);
  return load(lanes);
}
template <class F>
GOPT_INLINE f32x16 each_lane(f32x16 x, f32x16 y, const F& f) {
  alignas(64) float lanes[LANES], others[LANES];
  store(lanes, x);
  store(others, y);
  for (int i = 0; i < LANES; ++i) lanes[i] = f(lanes[i], others[i]);
  return load(lanes);
}

GOPT_INLINE i32x16 opposite(i32x16 mask) { return mask ^ splat_int(-1); }

GOPT_INLINE bool is_any(i32x16 mask) {
  native_int found = mask.v[0];
  for (int i = 1; i < PARTS; ++i) found |= mask.v[i];
  int32_t any = 0;
  for (int lane = 0; lane < WIDTH; ++lane) any |= found[lane];
  return any != 0;
}

// The nearest number of type T, as a float again.
template <class T>
GOPT_INLINE float rounded(float x) {
  return to_float(from_float<T>(x));
}
template <class T>
GOPT_INLINE f32x16 rounded(f32x16 x) {
  T t[LANES];
  store(t, x);
  return load(t);
}

GOPT_INLINE float abs(float x) { return std::fabs(x); }
GOPT_INLINE f32x16 abs(f32x16 x) {
  return bits_to_float(float_to_bits(x) & splat_int(0x7fffffff));
}
// x with the sign of y.
GOPT_INLINE f32x16 with_sign(f32x16 x, f32x16 y) {
  return bits_to_float(float_to_bits(abs(x)) | (float_to_bits(y) & splat_int(INT32_MIN)));
}

template <class T>
GOPT_INLINE T square(T x) {
  return x * x;
}
template <class T>
GOPT_INLINE T cube(T x) {
  return x * x * x;
}

// c[0] x^(N-1) + c[1] x^(N-2) + ..
template <int N>
GOPT_INLINE f32x16 polynomial(f32x16 x, const float (&c)[N]) {
  f32x16 y = splat(c[0]);
  _Pragma("GCC unroll 16") for (int i = 1; i < N; ++i) y = fma(y, x, splat(c[i]));
  return y;
}

// ---- Roots and whole numbers -------------------------------------------------------------------

GOPT_INLINE float sqrt(float x) { return std::sqrt(x); }
GOPT_INLINE float floor(float x) { return std::floor(x); }
GOPT_INLINE float ceil(float x) { return std::ceil(x); }
GOPT_INLINE float round(float x) { return std::nearbyint(x); }

#if defined(GOPT_AVX512)
#define GOPT_WHOLE(name, mode)                                                         \
  GOPT_INLINE f32x16 name(f32x16 x) {                                                  \
    return {(native)_mm512_roundscale_ps((__m512)x.v[0], (mode) | _MM_FROUND_NO_EXC)}; \
  }
GOPT_INLINE f32x16 sqrt(f32x16 x) { return {(native)_mm512_sqrt_ps((__m512)x.v[0])}; }
#elif defined(GOPT_AVX2)
#define GOPT_WHOLE(name, mode)                                                                \
  GOPT_INLINE f32x16 name(f32x16 x) {                                                         \
    GOPT_EACH x.v[i] = (native)_mm256_round_ps((__m256)x.v[i], (mode) | _MM_FROUND_NO_EXC);   \
    return x;                                                                                 \
  }
GOPT_INLINE f32x16 sqrt(f32x16 x) {
  GOPT_EACH x.v[i] = (native)_mm256_sqrt_ps((__m256)x.v[i]);
  return x;
}
#else
#define GOPT_WHOLE(name, mode)                                    \
  GOPT_INLINE f32x16 name(f32x16 x) {                             \
    return each_lane(x, [](float lane) { return name(lane); });   \
  }
GOPT_INLINE f32x16 sqrt(f32x16 x) {
  return each_lane(x, [](float lane) { return std::sqrt(lane); });
}
#endif
GOPT_WHOLE(floor, _MM_FROUND_TO_NEG_INF)
GOPT_WHOLE(ceil, _MM_FROUND_TO_POS_INF)
GOPT_WHOLE(round, _MM_FROUND_TO_NEAREST_INT)
#undef GOPT_WHOLE

GOPT_INLINE float rsqrt(float x) { return 1.f / std::sqrt(x); }
GOPT_INLINE f32x16 rsqrt(f32x16 x) { return 1.f / sqrt(x); }

// ---- Powers of e -------------------------------------------------------------------------------

// Adding this to a number below 2^22 rounds it to an integer, which stands in the low bits.
constexpr float ROUND = 0x1.8p23f;

// exp(x) = 2^n exp(r), where n is the integer nearest to x / ln 2, so that |r| <= ln 2 / 2.
GOPT_INLINE float exp(float x) { return std::exp(x); }
GOPT_INLINE f32x16 exp(f32x16 x) {
  constexpr float LOG2_E = 0x1.715476p+0f, LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f;
  // Below the least everything is zero, above the greatest infinity; NaN stays.
  constexpr float LEAST = -104.f, GREATEST = 89.f;
  constexpr float C[] = {0x1.6a2448p-10f, 0x1.1239d4p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f,
                         0x1.fffffcp-2f};
  x = select(x < splat(LEAST), splat(LEAST), select(x > splat(GREATEST), splat(GREATEST), x));
  const f32x16 n = fma(x, splat(LOG2_E), splat(ROUND)) - ROUND;
  f32x16 r = fma(n, splat(-LN2_HIGH), x);
  r = fma(n, splat(-LN2_LOW), r);
  const f32x16 y = fma(polynomial(r, C), r * r, r) + 1.f;
#if defined(GOPT_AVX512)
  return {(native)_mm512_scalef_ps((__m512)y.v[0], (__m512)n.v[0])};
#else
  // In two steps, since 2^n may be no normal number where the result is one.
  const i32x16 whole = to_i32(n), half = to_i32(n * 0.5f), one = splat_int(127);
  return y * bits_to_float(shift_left<23>(half + one)) *
         bits_to_float(shift_left<23>(whole - half + one));
#endif
}

// x = 2^e m with sqrt(1/2) <= m < sqrt(2); log(x) = e ln 2 + log(1 + f), where f = m - 1.
GOPT_INLINE float log(float x) { return std::log(x); }
GOPT_INLINE f32x16 log(f32x16 given) {
  constexpr float LEAST_NORMAL = 0x1p-126f, LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f;
  constexpr int32_t ROOT = 0x3f3504f3;  // the bits of sqrt(1/2)
  constexpr float C[] = {0x1.14573ep-4f, -0x1.de3bf8p-4f, 0x1.e6f08cp-4f,
                         -0x1.fc220ep-4f, 0x1.233766p-3f, -0x1.555c4ep-3f,
                         0x1.99a4b6p-3f, -0x1.000006p-2f, 0x1.555548p-2f};
  const i32x16 tiny = given < splat(LEAST_NORMAL);
  const i32x16 bits = float_to_bits(select(tiny, given * 0x1p23f, given));
  const i32x16 exponent = (bits - splat_int(ROOT)) & splat_int(int32_t(0xff800000));
  const f32x16 e = to_f32(exponent) * 0x1p-23f - select(tiny, splat(23.f), zeros());
  const f32x16 f = bits_to_float(bits - exponent) - 1.f;
  const f32x16 square = f * f;
  f32x16 y = fma(e, splat(LN2_LOW), polynomial(f, C) * (square * f));
  y = fma(square, splat(-0.5f), y);
  y = fma(e, splat(LN2_HIGH), f + y);
  y = select(given == splat(INF), given, y);
  y = select(given == zeros(), splat(-INF), y);
  return select(given >= zeros(), y, splat(NOT_A_NUMBER));
}

// log(1 + x): what rounding took from 1 + x is given back as a factor.
GOPT_INLINE float log1p(float x) { return std::log1p(x); }
GOPT_INLINE f32x16 log1p(f32x16 x) {
  const f32x16 sum = x + 1.f, rest = sum - 1.f;
  const f32x16 y = log(sum) * (x / rest);
  return select(rest == zeros(), x, select(sum == splat(INF), sum, y));
}

// exp(x) - 1: a series where the difference would leave few digits.
GOPT_INLINE float expm1(float x) { return std::expm1(x); }
GOPT_INLINE f32x16 expm1(f32x16 x) {
  constexpr float SMALL = 0.5f;
  constexpr float C[] = {1.f / 40320, 1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f};
  const f32x16 small = fma(polynomial(x, C) * x, x, x);
  return select(abs(x) < splat(SMALL), small, exp(x) - 1.f);
}

GOPT_INLINE float tanh(float x) { return std::tanh(x); }
GOPT_INLINE f32x16 tanh(f32x16 x) {
  constexpr float SMALL = 0.625f;
  constexpr float C[] = {0x1.18e1c4p-9f,  -0x1.0bf4f6p-7f, 0x1.638b56p-6f,
                         -0x1.b9ee90p-5f, 0x1.111066p-3f,  -0x1.555554p-2f};
  const f32x16 square = x * x, size = abs(x);
  const f32x16 small = fma(polynomial(square, C) * square, x, x);
  const f32x16 large = 1.f - 2.f / (exp(size + size) + 1.f);
  return with_sign(select(size < splat(SMALL), small, large), x);
}

// erf(x) = x + x p(x^2) near zero, and 1 - exp(-g(|x|)) elsewhere.
GOPT_INLINE float erf(float x) { return std::erf(x); }
GOPT_INLINE f32x16 erf(f32x16 x) {
  constexpr float SMALL = 1.f, ONE = 4.f;  // from ONE on, the result is 1
  constexpr float P[] = {0x1.496a28p-14f, -0x1.a3f6fcp-11f, 0x1.5405b2p-8f, -0x1.b7f90cp-6f,
                         0x1.ce2cf8p-4f,  -0x1.81273ep-2f,  0x1.06eba8p-3f};
  constexpr float G[] = {0x1.67cc1ep-16f, -0x1.cbd510p-12f, 0x1.12a6eap-8f, -0x1.9c6a3cp-6f,
                         0x1.bbd954p-4f,  0x1.443c48p-1f,   0x1.212a52p+0f, -0x1.7ea5bcp-13f};
  const f32x16 size = abs(x);
  const f32x16 within = select(size > splat(ONE), splat(ONE), size);
  const f32x16 small = fma(polynomial(x * x, P), x, x);
  const f32x16 large = 1.f - exp(-polynomial(within, G));
  return select(size < splat(SMALL), small, with_sign(large, x));
}

GOPT_INLINE float pow(float x, float y) { return std::pow(x, y); }
GOPT_INLINE f32x16 pow(f32x16 x, f32x16 y) {
  return each_lane(x, y, [](float a, float b) { return std::pow(a, b); });
}

// ---- Angles ------------------------------------------------------------------------------------

// An angle x = n pi/2 + r: the sine and the cosine of r, |r| <= pi/4, and n in the low bits.
struct Turn {
  f32x16 sin, cos;
  i32x16 n;
};

// Up to here n has no more than twenty bits, so that n times the first 33 bits of pi/2, and times
// the next 33, are exact in double; larger angles, of no use in a model, go to the C library.
constexpr float LARGEST_ANGLE = 1.6e6f;

GOPT_INLINE f32x16 narrow(f64x16 x) {
  f32x16 y;
#if defined(GOPT_AVX512)
  const __m256 low = _mm512_cvtpd_ps((__m512d)x.v[0]), high = _mm512_cvtpd_ps((__m512d)x.v[1]);
  y.v[0] = (native)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#elif defined(GOPT_AVX2)
  GOPT_EACH {
    const __m128 low = _mm256_cvtpd_ps((__m256d)x.v[2 * i]);
    const __m128 high = _mm256_cvtpd_ps((__m256d)x.v[2 * i + 1]);
    y.v[i] = (native)_mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
  }
#else
  GOPT_EACH_HALF {
    for (int j = 0; j < WIDTH / 2; ++j)
      y.v[i / 2][i % 2 * (WIDTH / 2) + j] = float(x.v[i][j]);
  }
#endif
  return y;
}

GOPT_INLINE Turn turn(f32x16 x) {
  constexpr double HIGH = 0x1.921fb544p+0, MIDDLE = 0x1.0b4611a6p-34;
  constexpr double LOW = 0x1.3198a2e037073p-69;
  constexpr float TWO_OVER_PI = 0x1.45f306p-1f;
  constexpr float SIN[] = {0x1.6cd87ap-19f, -0x1.a00f9ep-13f, 0x1.111108p-7f, -0x1.555556p-3f};
  constexpr float COS[] = {0x1.99eb9ap-16f, -0x1.6c0c34p-10f, 0x1.55554ap-5f};
  const f32x16 shifted = fma(x, splat(TWO_OVER_PI), splat(ROUND));
  const f64x16 wide = widen(x), turns = widen(shifted - ROUND);
  f64x16 rest;
  GOPT_EACH_HALF {
    const native_wide n = turns.v[i];
    rest.v[i] = wide.v[i] - n * HIGH - n * MIDDLE - n * LOW;
  }
  const f32x16 r = narrow(rest), square = r * r;
  const f32x16 sin = fma(polynomial(square, SIN) * square, r, r);
  const f32x16 parabola = fma(square, splat(-0.5f), splat(1.f));
  const f32x16 cos = fma(polynomial(square, COS), square * square, parabola);
  return {sin, cos, float_to_bits(shifted)};
}

GOPT_INLINE i32x16 is_odd(i32x16 n) {
  const i32x16 bit = n & splat_int(1);
  return splat_int(0) - bit;
}
// x, or its negative where bit 1 of n is set.
GOPT_INLINE f32x16 turned(f32x16 x, i32x16 n) {
  return bits_to_float(float_to_bits(x) ^ shift_left<30>(n & splat_int(2)));
}

GOPT_INLINE float sin(float x) { return std::sin(x); }
GOPT_INLINE f32x16 sin(f32x16 x) {
  if (is_any(abs(x) > splat(LARGEST_ANGLE)))
    return each_lane(x, [](float lane) { return std::sin(lane); });
  const Turn at = turn(x);
  return turned(select(is_odd(at.n), at.cos, at.sin), at.n);
}
GOPT_INLINE float cos(float x) { return std::cos(x); }
GOPT_INLINE f32x16 cos(f32x16 x) {
  if (is_any(abs(x) > splat(LARGEST_ANGLE)))
    return each_lane(x, [](float lane) { return std::cos(lane); });
  const Turn at = turn(x);
  return turned(select(is_odd(at.n), at.sin, at.cos), at.n + splat_int(1));
}
GOPT_INLINE float tan(float x) { return std::tan(x); }
GOPT_INLINE f32x16 tan(f32x16 x) {
  if (is_any(abs(x) > splat(LARGEST_ANGLE)))
    return each_lane(x, [](float lane) { return std::tan(lane); });
  const Turn at = turn(x);
  const i32x16 odd = is_odd(at.n);
  return select(odd, -at.cos, at.sin) / select(odd, at.sin, at.cos);
}

// ---- Division with a remainder -----------------------------------------------------------------

// The quotient rounded down, and what it leaves, which has the divisor's sign.
inline float remainder(float a, float b) {
  const float rest = std::fmod(a, b);
  return rest != 0 && (b < 0) != (rest < 0) ? rest + b : rest;
}
inline float floor_div(float a, float b) {
  if (b == 0) return a / b;
  const float rest = std::fmod(a, b);
  float quotient = (a - rest) / b;  // whole, but for rounding
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.f, a / b);
  const float whole = std::floor(quotient);
  return quotient - whole > 0.5f ? whole + 1 : whole;
}
GOPT_INLINE f32x16 remainder(f32x16 x, f32x16 y) {
  return each_lane(x, y, [](float a, float b) { return remainder(a, b); });
}
GOPT_INLINE f32x16 floor_div(f32x16 x, f32x16 y) {
  return each_lane(x, y, [](float a, float b) { return floor_div(a, b); });
}

// ---- Integers ----------------------------------------------------------------------------------
// Sums and products wrap; dividing by zero gives zero, where the IR has no answer.

inline int64_t abs(int64_t x) { return x < 0 ? int64_t(0 - uint64_t(x)) : x; }
inline int64_t maximum(int64_t a, int64_t b) { return a < b ? b : a; }
inline int64_t minimum(int64_t a, int64_t b) { return b < a ? b : a; }
inline int64_t remainder(int64_t a, int64_t b) {
  if (b == 0 || b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (b < 0) != (rest < 0) ? rest + b : rest;
}
inline int64_t floor_div(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return int64_t(0 - uint64_t(a));
  return (a - remainder(a, b)) / b;
}
inline int64_t pow(int64_t base, int64_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
  uint64_t result = 1, power = uint64_t(base);
  for (; exponent; exponent >>= 1, power *= power)
    if (exponent & 1) result *= power;
  return int64_t(result);
}

}  // namespace gopt
