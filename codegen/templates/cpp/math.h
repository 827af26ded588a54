// Functions of floats, of sixteen floats, and of integers.
#pragma once

#include <limits>

#include "vec.h"

namespace gopt {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();

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

template <class T>
GOPT_INLINE T square(T x) {
  return x * x;
}

#define GOPT_FUNCTION(name)                                        \
  inline float name(float x) { return std::name(x); }              \
  GOPT_INLINE f32x16 name(f32x16 x) {                              \
    return each_lane(x, [](float y) { return std::name(y); });     \
  }
GOPT_FUNCTION(exp)
GOPT_FUNCTION(log)
GOPT_FUNCTION(log1p)
GOPT_FUNCTION(sin)
GOPT_FUNCTION(cos)
GOPT_FUNCTION(tan)
GOPT_FUNCTION(tanh)
GOPT_FUNCTION(erf)
GOPT_FUNCTION(sqrt)
GOPT_FUNCTION(floor)
GOPT_FUNCTION(ceil)
GOPT_FUNCTION(abs)
#undef GOPT_FUNCTION
inline float round(float x) { return std::nearbyint(x); }
GOPT_INLINE f32x16 round(f32x16 x) {
  return each_lane(x, [](float y) { return std::nearbyint(y); });
}
inline float rsqrt(float x) { return 1.f / std::sqrt(x); }
GOPT_INLINE f32x16 rsqrt(f32x16 x) { return 1.f / sqrt(x); }
inline float pow(float x, float y) { return std::pow(x, y); }
GOPT_INLINE f32x16 pow(f32x16 x, f32x16 y) {
  return each_lane(x, y, [](float a, float b) { return std::pow(a, b); });
}

// The quotient rounded down, and what it leaves, which has the divisor's sign.
inline float floor_div(float a, float b) {
  if (b == 0) return a / b;
  const float rest = std::fmod(a, b);
  float quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.f, a / b);
  const float whole = std::floor(quotient);
  return quotient - whole > 0.5f ? whole + 1 : whole;
}
inline float remainder(float a, float b) {
  const float rest = std::fmod(a, b);
  return rest != 0 && (b < 0) != (rest < 0) ? rest + b : rest;
}
GOPT_INLINE f32x16 floor_div(f32x16 x, f32x16 y) {
  return each_lane(x, y, [](float a, float b) { return floor_div(a, b); });
}
GOPT_INLINE f32x16 remainder(f32x16 x, f32x16 y) {
  return each_lane(x, y, [](float a, float b) { return remainder(a, b); });
}

// ---- Integers ----------------------------------------------------------------------------------

inline int64_t abs(int64_t x) { return x < 0 ? -x : x; }
inline int64_t maximum(int64_t a, int64_t b) { return a < b ? b : a; }
inline int64_t minimum(int64_t a, int64_t b) { return b < a ? b : a; }
inline int64_t square(int64_t x) { return x * x; }
// Dividing by zero gives zero, where the IR has no answer.
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
