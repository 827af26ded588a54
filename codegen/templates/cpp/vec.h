// Sixteen floats at a time on every instruction set: one AVX-512 register, two of AVX2, or four of
// four. A panel of weights has sixteen rows, so that a kernel is written once.
//
// What an instruction set has beyond arithmetic is below `GOPT_AVX512` (with BF16 and VNNI) and
// `GOPT_AVX2` (with FMA and F16C); without either, everything is portable C++20.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define GOPT_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define GOPT_AVX2 1
#endif
#if defined(GOPT_AVX512) || defined(GOPT_AVX2)
#include <immintrin.h>
#endif

#define GOPT_INLINE inline __attribute__((always_inline))

namespace gopt {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// ---- One number -------------------------------------------------------------------------------

GOPT_INLINE float to_float(float x) { return x; }
GOPT_INLINE float to_float(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline float to_float(f16 x) {
#if defined(GOPT_AVX512) || defined(GOPT_AVX2)
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // A number below the smallest normal is a multiple of 2^-24.
  if (rest < 0x0400) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(float(rest) * 0x1p-24f));
  return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000));
#endif
}

// The nearest number of type T, halves to even; NaN stays NaN.
template <class T>
T from_float(float x);
template <>
GOPT_INLINE float from_float<float>(float x) {
  return x;
}
template <>
GOPT_INLINE bf16 from_float<bf16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  return {uint16_t(x != x ? quiet : rounded)};
}
template <>
inline f16 from_float<f16>(float x) {
#if defined(GOPT_AVX512) || defined(GOPT_AVX2)
  return {uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  if (rest >= 0x47800000) return {uint16_t(sign | 0x7c00)};
  if (rest < 0x38800000)  // below the smallest normal: a multiple of 2^-24, which adding 0.5 rounds to
    return {uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000))};
  return {uint16_t(sign | ((rest + 0xfff + ((rest >> 13) & 1) - 0x38000000) >> 13))};
#endif
}

// ---- Sixteen numbers --------------------------------------------------------------------------

#if defined(GOPT_AVX512)
constexpr int WIDTH = 16;  // floats in a register
#elif defined(GOPT_AVX2)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int LANES = 16;
constexpr int PARTS = LANES / WIDTH;  // registers in sixteen floats

typedef float native __attribute__((vector_size(4 * WIDTH)));
typedef int32_t native_int __attribute__((vector_size(4 * WIDTH)));

struct i32x16 {
  native_int v[PARTS];
};
struct f32x16 {
  native v[PARTS];
};

#define GOPT_EACH _Pragma("GCC unroll 4") for (int i = 0; i < PARTS; ++i)

GOPT_INLINE f32x16 splat(float x) {
  f32x16 y;
  GOPT_EACH y.v[i] = x - native{};  // which keeps the sign of zero
  return y;
}
GOPT_INLINE f32x16 zeros() {
  f32x16 y;
  GOPT_EACH y.v[i] = native{};
  return y;
}
GOPT_INLINE i32x16 splat_int(int32_t x) {
  i32x16 y;
  GOPT_EACH y.v[i] = native_int{} + x;
  return y;
}

#define GOPT_OPERATOR(op)                                            \
  GOPT_INLINE f32x16 operator op(f32x16 a, f32x16 b) {               \
    GOPT_EACH a.v[i] = a.v[i] op b.v[i];                             \
    return a;                                                        \
  }                                                                  \
  GOPT_INLINE f32x16 operator op(f32x16 a, float b) { return a op splat(b); } \
  GOPT_INLINE f32x16 operator op(float a, f32x16 b) { return splat(a) op b; }
GOPT_OPERATOR(+)
GOPT_OPERATOR(-)
GOPT_OPERATOR(*)
GOPT_OPERATOR(/)
#undef GOPT_OPERATOR
GOPT_INLINE f32x16& operator+=(f32x16& a, f32x16 b) { return a = a + b; }
GOPT_INLINE f32x16& operator*=(f32x16& a, f32x16 b) { return a = a * b; }
GOPT_INLINE f32x16 operator-(f32x16 a) {
  GOPT_EACH a.v[i] = -a.v[i];
  return a;
}

#define GOPT_INT_OPERATOR(op)                          \
  GOPT_INLINE i32x16 operator op(i32x16 a, i32x16 b) { \
    GOPT_EACH a.v[i] = a.v[i] op b.v[i];               \
    return a;                                          \
  }
GOPT_INT_OPERATOR(+)
GOPT_INT_OPERATOR(-)
GOPT_INT_OPERATOR(*)
GOPT_INT_OPERATOR(&)
GOPT_INT_OPERATOR(|)
GOPT_INT_OPERATOR(^)
#undef GOPT_INT_OPERATOR

// Comparisons give a mask: all bits of a lane, or none.
#define GOPT_COMPARE(op)                               \
  GOPT_INLINE i32x16 operator op(f32x16 a, f32x16 b) { \
    i32x16 y;                                          \
    GOPT_EACH y.v[i] = a.v[i] op b.v[i];               \
    return y;                                          \
  }
GOPT_COMPARE(<)
GOPT_COMPARE(<=)
GOPT_COMPARE(>)
GOPT_COMPARE(>=)
GOPT_COMPARE(==)
GOPT_COMPARE(!=)
#undef GOPT_COMPARE

GOPT_INLINE f32x16 select(i32x16 mask, f32x16 a, f32x16 b) {
  f32x16 y;
  GOPT_EACH y.v[i] = mask.v[i] ? a.v[i] : b.v[i];
  return y;
}
GOPT_INLINE float select(bool mask, float a, float b) { return mask ? a : b; }

GOPT_INLINE f32x16 bits_to_float(i32x16 a) {
  f32x16 y;
  GOPT_EACH y.v[i] = std::bit_cast<native>(a.v[i]);
  return y;
}
GOPT_INLINE i32x16 float_to_bits(f32x16 a) {
  i32x16 y;
  GOPT_EACH y.v[i] = std::bit_cast<native_int>(a.v[i]);
  return y;
}
GOPT_INLINE f32x16 to_f32(i32x16 a) {
  f32x16 y;
  GOPT_EACH y.v[i] = __builtin_convertvector(a.v[i], native);
  return y;
}
// Towards zero; undefined outside the range of int32.
GOPT_INLINE i32x16 to_i32(f32x16 a) {
  i32x16 y;
  GOPT_EACH y.v[i] = __builtin_convertvector(a.v[i], native_int);
  return y;
}
template <int BITS>
GOPT_INLINE i32x16 shift_left(i32x16 a) {
  GOPT_EACH a.v[i] = a.v[i] << BITS;
  return a;
}

// a * b + c, rounded once where the instruction set can.
GOPT_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(GOPT_AVX512)
  c.v[0] = (native)_mm512_fmadd_ps((__m512)a.v[0], (__m512)b.v[0], (__m512)c.v[0]);
#elif defined(GOPT_AVX2)
  GOPT_EACH c.v[i] = (native)_mm256_fmadd_ps((__m256)a.v[i], (__m256)b.v[i], (__m256)c.v[i]);
#else
  GOPT_EACH c.v[i] = a.v[i] * b.v[i] + c.v[i];
#endif
  return c;
}
GOPT_INLINE float fma(float a, float b, float c) {
#if defined(GOPT_AVX512) || defined(GOPT_AVX2)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// The greater and the smaller; NaN if either is, as in the IR.
GOPT_INLINE f32x16 maximum(f32x16 a, f32x16 b) {
  return select(a != a, a, select(a < b, b, select(b != b, b, a)));
}
GOPT_INLINE f32x16 minimum(f32x16 a, f32x16 b) {
  return select(a != a, a, select(b < a, b, select(b != b, b, a)));
}
GOPT_INLINE float maximum(float a, float b) { return a != a ? a : (a < b || b != b ? b : a); }
GOPT_INLINE float minimum(float a, float b) { return a != a ? a : (b < a || b != b ? b : a); }
// Without care for NaN, where none can be: one instruction.
GOPT_INLINE f32x16 fast_max(f32x16 a, f32x16 b) { return select(a > b, a, b); }
GOPT_INLINE f32x16 fast_min(f32x16 a, f32x16 b) { return select(a < b, a, b); }

GOPT_INLINE float sum(f32x16 a) {
#if defined(GOPT_AVX512)
  return _mm512_reduce_add_ps((__m512)a.v[0]);
#else
  native t = a.v[0];
  for (int i = 1; i < PARTS; ++i) t += a.v[i];
  float s = 0;
  for (int j = 0; j < WIDTH; ++j) s += t[j];
  return s;
#endif
}
GOPT_INLINE float largest(f32x16 a) {
#if defined(GOPT_AVX512)
  return _mm512_reduce_max_ps((__m512)a.v[0]);
#else
  float s = a.v[0][0];
  for (int i = 0; i < PARTS; ++i)
    for (int j = 0; j < WIDTH; ++j) s = a.v[i][j] > s ? a.v[i][j] : s;
  return s;
#endif
}

// ---- Memory -----------------------------------------------------------------------------------
// Addresses need no alignment. `load_n` and `store_n` touch the first n elements only, 0 <= n <= 16;
// lanes past them read as zero.

GOPT_INLINE f32x16 load(const float* p) {
  f32x16 y;
  GOPT_EACH std::memcpy(&y.v[i], p + WIDTH * i, sizeof y.v[i]);
  return y;
}
GOPT_INLINE void store(float* p, f32x16 x) {
  GOPT_EACH std::memcpy(p + WIDTH * i, &x.v[i], sizeof x.v[i]);
}

GOPT_INLINE f32x16 load(const bf16* p) {
#if defined(GOPT_AVX512)
  const __m256i half = _mm256_loadu_si256((const __m256i*)p);
  return {(native)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)};
#elif defined(GOPT_AVX2)
  f32x16 y;
  GOPT_EACH y.v[i] = (native)_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8 * i))), 16);
  return y;
#else
  alignas(64) float t[LANES];
  for (int i = 0; i < LANES; ++i) t[i] = to_float(p[i]);
  return load(t);
#endif
}
GOPT_INLINE void store(bf16* p, f32x16 x) {
#if defined(GOPT_AVX512)
  const __m256bh y = _mm512_cvtneps_pbh((__m512)x.v[0]);
  std::memcpy(p, &y, 32);
#elif defined(GOPT_AVX2)
  GOPT_EACH {
    const __m256i bits = (__m256i)x.v[i];
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i round = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps((__m256)x.v[i], (__m256)x.v[i], _CMP_UNORD_Q);
    const __m256i high =
        _mm256_srli_epi32((__m256i)_mm256_blendv_ps((__m256)round, (__m256)quiet, nan), 16);
    const __m128i y = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    std::memcpy(p + 8 * i, &y, 16);
  }
#else
  alignas(64) float t[LANES];
  store(t, x);
  for (int i = 0; i < LANES; ++i) p[i] = from_float<bf16>(t[i]);
#endif
}

GOPT_INLINE f32x16 load(const f16* p) {
#if defined(GOPT_AVX512)
  return {(native)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
#elif defined(GOPT_AVX2)
  f32x16 y;
  GOPT_EACH y.v[i] = (native)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8 * i)));
  return y;
#else
  alignas(64) float t[LANES];
  for (int i = 0; i < LANES; ++i) t[i] = to_float(p[i]);
  return load(t);
#endif
}
GOPT_INLINE void store(f16* p, f32x16 x) {
#if defined(GOPT_AVX512)
  const __m256i y = _mm512_cvtps_ph((__m512)x.v[0], _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &y, 32);
#elif defined(GOPT_AVX2)
  GOPT_EACH {
    const __m128i y = _mm256_cvtps_ph((__m256)x.v[i], _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(p + 8 * i, &y, 16);
  }
#else
  alignas(64) float t[LANES];
  store(t, x);
  for (int i = 0; i < LANES; ++i) p[i] = from_float<f16>(t[i]);
#endif
}

template <class T>
GOPT_INLINE f32x16 load_n(const T* p, int n) {
  if (n >= LANES) return load(p);
  T t[LANES] = {};
  std::memcpy(t, p, n * sizeof(T));
  return load(t);
}
template <class T>
GOPT_INLINE void store_n(T* p, f32x16 x, int n) {
  if (n >= LANES) return store(p, x);
  T t[LANES];
  store(t, x);
  std::memcpy(p, t, n * sizeof(T));
}

}  // namespace gopt
