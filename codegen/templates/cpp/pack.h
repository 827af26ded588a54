// Weights in panels of sixteen rows, as graphopt/packing.py stores them:
//
//   [panels][K/PAIR][16][PAIR]
//
// PAIR elements fill four bytes, so that the next step of a panel is one register of sixteen rows,
// each with its next PAIR columns. Rows past N and columns past K are zeros.
#pragma once

#include "vec.h"

namespace gopt {

constexpr int PANEL = LANES;  // rows
template <class W>
constexpr int PAIR = 4 / int(sizeof(W));

// K with the padding.
template <class W>
constexpr int64_t padded(int64_t k) {
  return (k + PAIR<W> - 1) / PAIR<W> * PAIR<W>;
}

// One part of a weight: n rows (which become columns of y) of k numbers, both without padding.
template <class W>
struct Panels {
  const W* data;
  int64_t n, k;

  int64_t count() const { return (n + PANEL - 1) / PANEL; }
  const W* panel(int64_t i) const { return data + i * PANEL * padded<W>(k); }
};

// ---- One step of a panel of sixteen-bit weights: its even and its odd columns as floats ---------

GOPT_INLINE void split(const bf16* p, f32x16& even, f32x16& odd) {
  GOPT_EACH {
    native_int bits;
    std::memcpy(&bits, p + 2 * WIDTH * i, sizeof bits);
    even.v[i] = std::bit_cast<native>(bits << 16);
    odd.v[i] = std::bit_cast<native>(bits & int32_t(0xffff0000));
  }
}

#if defined(GOPT_AVX512)
GOPT_INLINE void split(const f16* p, f32x16& even, f32x16& odd) {
  const __m512i bits = _mm512_loadu_si512(p);
  even.v[0] = (native)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
  odd.v[0] = (native)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
#elif defined(GOPT_AVX2)
GOPT_INLINE void split(const f16* p, f32x16& even, f32x16& odd) {
  for (int i = 0; i < 2; ++i) {
    const __m256i bits = _mm256_loadu_si256((const __m256i*)(p + 16 * i));
    const __m256i low = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff));
    const __m256i high = _mm256_srli_epi32(bits, 16);
    even.v[i] = (native)_mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
    odd.v[i] = (native)_mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
  }
}
#else
// The low halves as floats: exponent and fraction move into place, a product with a power of two
// sets the exponent's bias right, even below the smallest normal.
GOPT_INLINE f32x16 low_halves(i32x16 bits) {
  const i32x16 rest = shift_left<13>(bits & splat_int(0x7fff));
  const i32x16 sign = shift_left<16>(bits & splat_int(0x8000));
  const f32x16 huge = bits_to_float(rest | splat_int(0x7f800000));
  const f32x16 finite = bits_to_float(rest) * 0x1p112f;
  const f32x16 size = select(bits_to_float(rest) >= splat(0x1p-96f), huge, finite);
  return bits_to_float(float_to_bits(size) | sign);
}
GOPT_INLINE void split(const f16* p, f32x16& even, f32x16& odd) {
  i32x16 bits;
  std::memcpy(&bits, p, sizeof bits);
  even = low_halves(bits);
  for (auto& v : bits.v) v = v >> 16;
  odd = low_halves(bits);
}
#endif

// ---- One row ------------------------------------------------------------------------------------

// Row n of a packed weight of k columns, as floats; for tables that are embedded, too.
template <class W>
inline void row_of(const W* packed, int64_t n, int64_t k, float* out) {
  const W* p = packed + n / PANEL * PANEL * padded<W>(k) + n % PANEL * PAIR<W>;
  for (int64_t i = 0; i < k; ++i)
    out[i] = to_float(p[i / PAIR<W> * PANEL * PAIR<W> + i % PAIR<W>]);
}

}  // namespace gopt
