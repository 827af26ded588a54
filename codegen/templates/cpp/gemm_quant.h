// Linear maps by weights of 8 or 4 bits: y[r, j] = sum_k x'[r, k] w[j, k]; rows of such weights.
//
// w[j, k] = q[j, k] s[j, k / GROUP] with integers q and f16 scales s; x' is x with every group of a
// row rounded to 127 steps either way, as `quantized_linear` defines it. A group's products add up
// in int32 without error, and its two scales are applied once, in f32.
//
// Memory: panels of 16 rows. A panel holds its groups in pairs: 16 scales of each of the two (64
// bytes), then the integers of the first and of the second (of one, if the last has no partner),
// each in vectors of 64 bytes:
//   8 bits   the next 4 columns of 16 rows, a byte each, q + 128
//   4 bits   the next 8 columns of 16 rows: the low halves of a row's 4 bytes are the first four
//            columns, the high halves the others, q + 8
// Rows and columns past the end have q = 0. So everything is aligned to 64 bytes.
//
// Few rows of x are bound by reading w: every thread rounds all of them for itself and walks its
// own panels. More rows are bound by products of bytes: the threads share the rounding, meet, and
// each walks its panels in blocks that stay in its second-level cache.
#pragma once

#include "pack.h"
#include "parallel.h"
#include "vec.h"

namespace gopt {

// The element type of a weight of so many bits, for `Panels`; a panel is measured in its bytes.
template <int BITS, int GROUP>
struct Quantized {
  static_assert((BITS == 8 || BITS == 4) && GROUP % 16 == 0);
  static constexpr int bits = BITS, group = GROUP;
  static constexpr int64_t GROUP_BYTES = 16 * GROUP * BITS / 8;
  static constexpr int64_t PAIR_BYTES = 64 + 2 * GROUP_BYTES;
  static constexpr int COLUMNS = BITS == 8 ? 4 : 8;  // of a vector of 64 bytes
  static constexpr int OFFSET = 1 << (BITS - 1);     // what is added to an integer

  static constexpr int64_t groups(int64_t k) { return (k + GROUP - 1) / GROUP; }
  static constexpr int64_t panel_bytes(int64_t k) {
    return (groups(k) + 1) / 2 * 64 + groups(k) * GROUP_BYTES;
  }
  static const uint8_t* integers(const uint8_t* panel, int64_t g) {
    return panel + g / 2 * PAIR_BYTES + 64 + g % 2 * GROUP_BYTES;
  }
  static const f16* scales(const uint8_t* panel, int64_t g) {
    return (const f16*)(panel + g / 2 * PAIR_BYTES + g % 2 * 32);
  }

  uint8_t byte;
};

template <int BITS, int GROUP>
struct Panels<Quantized<BITS, GROUP>> {
  const Quantized<BITS, GROUP>* data;
  int64_t n, k;

  int64_t count() const { return (n + PANEL - 1) / PANEL; }
  const uint8_t* panel(int64_t i) const {
    return &data->byte + i * Quantized<BITS, GROUP>::panel_bytes(k);
  }
};

// ---- Products of bytes ------------------------------------------------------------------------

// Four columns of sixteen rows of w.
#if defined(GOPT_AVX512)
struct Fours {
  __m512i v;
};
#elif defined(GOPT_AVX2)
struct Fours {
  __m256i v[2], sign[2];  // the sign only of 8 bits
};
#else
struct Fours {
  native_int v[PARTS];
};
#endif

// What the sum of a group starts from, given the sum of its steps of x: what the offset of the
// integers adds to the products is taken off. Signed bytes have no offset.
template <class Q>
GOPT_INLINE int32_t start_of(int32_t steps) {
#if defined(GOPT_AVX2)
  if constexpr (Q::bits == 8) return 0;
#endif
  return -Q::OFFSET * steps;
}

// The columns of one vector, in fours.
template <class Q>
GOPT_INLINE void load_fours(const uint8_t* p, Fours (&w)[Q::COLUMNS / 4]) {
#if defined(GOPT_AVX512)
  const __m512i both = _mm512_loadu_si512(p);
  if constexpr (Q::bits == 8) {
    w[0].v = both;
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    w[0].v = _mm512_and_si512(both, low);
    w[1].v = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
  }
#elif defined(GOPT_AVX2)
  for (int i = 0; i < 2; ++i) {
    const __m256i both = _mm256_loadu_si256((const __m256i*)(p + 32 * i));
    if constexpr (Q::bits == 8) {
      w[0].sign[i] = _mm256_xor_si256(both, _mm256_set1_epi8(-128));
      w[0].v[i] = _mm256_abs_epi8(w[0].sign[i]);
    } else {
      const __m256i low = _mm256_set1_epi8(15);
      w[0].v[i] = _mm256_and_si256(both, low);
      w[1].v[i] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
  }
#else
  std::memcpy(w[0].v, p, 64);
  if constexpr (Q::bits == 4) {
    GOPT_EACH w[1].v[i] = (w[0].v[i] >> 4) & 0x0f0f0f0f;
    GOPT_EACH w[0].v[i] &= 0x0f0f0f0f;
  }
#endif
}

// sums + the products of four columns with the four steps of x at `x`.
template <class Q>
GOPT_INLINE i32x16 dot_fours(i32x16 sums, const Fours& w, const int8_t* x) {
#if defined(GOPT_AVX512)
  int32_t four;
  std::memcpy(&four, x, 4);
  sums.v[0] = (native_int)_mm512_dpbusd_epi32((__m512i)sums.v[0], w.v, _mm512_set1_epi32(four));
#elif defined(GOPT_AVX2)
  // Two products are added in 16 bits: 2 * 128 * 127 of bytes by magnitude, 2 * 15 * 127 of halves.
  int32_t four;
  std::memcpy(&four, x, 4);
  const __m256i steps = _mm256_set1_epi32(four);
  GOPT_EACH {
    const __m256i turned = Q::bits == 8 ? _mm256_sign_epi8(steps, w.sign[i]) : steps;
    const __m256i pairs = _mm256_maddubs_epi16(w.v[i], turned);
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    sums.v[i] = (native_int)_mm256_add_epi32((__m256i)sums.v[i], fours);
  }
#else
  // Products of 16 bits, which hold one: 255 * 127.
  typedef int16_t native_short __attribute__((vector_size(4 * WIDTH)));
  const native_int none{};
  for (int f = 0; f < 2; ++f) {
    const int32_t two = int32_t(uint32_t(uint16_t(x[f])) | uint32_t(uint16_t(x[f + 2])) << 16);
    GOPT_EACH {
      const native_int bytes = (w.v[i] >> (8 * f)) & 0x00ff00ff;
      const native_int products = (native_int)((native_short)bytes * (native_short)(none + two));
      sums.v[i] += (products << 16 >> 16) + (products >> 16);
    }
  }
#endif
  return sums;
}

// ---- Rows of x --------------------------------------------------------------------------------

// A rounded row lies in one run of memory: the steps of its groups, a byte each; then each group's
// scale; then what its sums start from.
template <class Q>
constexpr int64_t rounded_bytes(int64_t k) {
  return (Q::groups(k) * (Q::group + 8) + 63) / 64 * 64;
}
template <class Q>
GOPT_INLINE float* scales_of(char* row, int64_t k) {
  return (float*)(row + Q::groups(k) * Q::group);
}
template <class Q>
GOPT_INLINE int32_t* starts_of(char* row, int64_t k) {
  return (int32_t*)(row + Q::groups(k) * (Q::group + 4));
}

// The greatest magnitude of a group as bits, whose order is that of the numbers, NaN above all.
template <int GROUP>
GOPT_INLINE int32_t greatest_bits(const float* x) {
  i32x16 most = splat_int(0);
  for (int j = 0; j < GROUP; j += LANES) {
    const i32x16 bits = float_to_bits(load(x + j)) & splat_int(0x7fffffff);
    GOPT_EACH most.v[i] = bits.v[i] > most.v[i] ? bits.v[i] : most.v[i];
  }
#if defined(GOPT_AVX512)
  return _mm512_reduce_max_epi32((__m512i)most.v[0]);
#else
  for (int i = 1; i < PARTS; ++i) most.v[0] = most.v[0] > most.v[i] ? most.v[0] : most.v[i];
  int32_t found = 0;
  for (int j = 0; j < WIDTH; ++j) found = most.v[0][j] > found ? most.v[0][j] : found;
  return found;
#endif
}

GOPT_INLINE int32_t sum_of(i32x16 a) {
#if defined(GOPT_AVX512)
  return _mm512_reduce_add_epi32((__m512i)a.v[0]);
#else
  for (int i = 1; i < PARTS; ++i) a.v[0] += a.v[i];
  int32_t total = 0;
  for (int j = 0; j < WIDTH; ++j) total += a.v[0][j];
  return total;
#endif
}

// Sixteen numbers below 2^22 as the nearest integers, halves to even: bytes at `out`.
GOPT_INLINE i32x16 round_to_bytes(f32x16 x, int8_t* out) {
  i32x16 rounded;
#if defined(GOPT_AVX512)
  rounded.v[0] = (native_int)_mm512_cvtps_epi32((__m512)x.v[0]);
  _mm_storeu_si128((__m128i*)out, _mm512_cvtepi32_epi8((__m512i)rounded.v[0]));
#else
#if defined(GOPT_AVX2)
  GOPT_EACH rounded.v[i] = (native_int)_mm256_cvtps_epi32((__m256)x.v[i]);
#else
  rounded = float_to_bits(x + 0x1.8p23f) - splat_int(0x4b400000);
#endif
  GOPT_EACH for (int j = 0; j < WIDTH; ++j) out[WIDTH * i + j] = int8_t(rounded.v[i][j]);
#endif
  return rounded;
}

// Round x, which is padded with zeros to whole groups.
template <class Q>
inline void round_row(const float* x, int64_t k, char* row) {
  float* scales = scales_of<Q>(row, k);
  int32_t* starts = starts_of<Q>(row, k);
  for (int64_t g = 0; g < Q::groups(k); ++g, x += Q::group) {
    const int32_t bits = greatest_bits<Q::group>(x);
    int8_t* steps = (int8_t*)row + g * Q::group;
    const float greatest = std::bit_cast<float>(bits);
    if (bits >= 0x7f800000 || greatest < 0x1p-100f) {
      std::memset(steps, 0, Q::group);
      scales[g] = bits >= 0x7f800000 ? std::bit_cast<float>(0x7fc00000) : 0.0f;
      starts[g] = 0;
      continue;
    }
    const float factor = 127.0f / greatest;
    i32x16 total = splat_int(0);
    for (int j = 0; j < Q::group; j += LANES)
      total = total + round_to_bytes(load(x + j) * factor, steps + j);
    scales[g] = greatest / 127.0f;
    starts[g] = start_of<Q>(sum_of(total));
  }
}

// ---- Tiles ------------------------------------------------------------------------------------

// Rows of x whose sums stay in registers while a panel passes by, each with sums of the group in
// int32 and of the row in f32. Six rows and two panels at a time were a tenth faster with weights
// in the cache, but read memory at 0.6 to 0.8 of the speed of one panel after the other. Without
// AVX-512, tiles of 2, 3 and 4 rows take the same time.
#if defined(GOPT_AVX512)
constexpr int QUANT_TILE = 12;
#else
constexpr int QUANT_TILE = 4;
#endif
// Bytes of a panel that are asked for ahead of their use: 8 rows by 8-bit weights came to 0.95 of
// one thread's read bandwidth with 8 KiB, 0.85 with 4 KiB; one row does not care.
constexpr int64_t QUANT_AHEAD = 8192;

// out[r][i] = the sum of row r of x with row i of a panel. Rows are `stride` bytes apart.
template <class Q, int ROWS>
__attribute__((noinline)) static void panel_dots(const uint8_t* panel, int64_t k, char* rows,
                                                 int64_t stride, float (*out)[LANES]) {
  const int64_t groups = Q::groups(k);
  const float* scales = scales_of<Q>(rows, k);
  const int32_t* starts = starts_of<Q>(rows, k);
  f32x16 total[ROWS];
  for (int r = 0; r < ROWS; ++r) total[r] = zeros();
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* w = Q::integers(panel, g);
    const int8_t* steps = (const int8_t*)rows + g * Q::group;
    i32x16 sums[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sums[r] = splat_int(starts[g + r * (stride / 4)]);
#pragma GCC unroll 8
    for (int j = 0; j < Q::group; j += Q::COLUMNS, w += 64) {
      Fours fours[Q::COLUMNS / 4];
      load_fours<Q>(w, fours);
      __builtin_prefetch(w + QUANT_AHEAD);
#pragma GCC unroll 2
      for (int f = 0; f < Q::COLUMNS / 4; ++f)
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r)
          sums[r] = dot_fours<Q>(sums[r], fours[f], steps + j + 4 * f + r * stride);
    }
    const f32x16 scale = load(Q::scales(panel, g));
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
      total[r] = fma(to_f32(sums[r]), scale * scales[g + r * (stride / 4)], total[r]);
  }
  for (int r = 0; r < ROWS; ++r) store(out[r], total[r]);
}

// The same of 1 to ROWS rows.
template <class Q, int ROWS = QUANT_TILE>
inline void panel_dots_of(int count, const uint8_t* panel, int64_t k, char* rows, int64_t stride,
                          float (*out)[LANES]) {
  if constexpr (ROWS > 1) {
    if (count < ROWS) return panel_dots_of<Q, ROWS - 1>(count, panel, k, rows, stride, out);
  }
  panel_dots<Q, ROWS>(panel, k, rows, stride, out);
}

// ---- Linear maps ------------------------------------------------------------------------------

// Up to so many rows every thread rounds all of them.
constexpr int QUANT_FEW = 16;
// Bytes of panels that stay in a core's second-level cache while the rows of x pass by.
constexpr int64_t QUANT_BLOCK = 256 << 10;

// Bytes of private and of shared memory that `linear` wants.
template <class Q>
constexpr int64_t quant_scratch(int64_t k) {
  return QUANT_FEW * rounded_bytes<Q>(k) + (4 * Q::groups(k) * Q::group + 63) / 64 * 64;
}
template <class Q>
constexpr int64_t quant_workspace(int64_t rows, int64_t k) {
  return rows <= QUANT_FEW ? 0 : rows * rounded_bytes<Q>(k);
}

// Fill and round the rows from `first` to `last`; `x` is memory for the numbers of one.
template <class Q, class Fill>
inline void round_rows(int64_t first, int64_t last, int64_t k, const Fill& fill, float* x,
                       char* rows) {
  std::memset(x + k, 0, (Q::groups(k) * Q::group - k) * 4);
  for (int64_t row = first; row < last; ++row) {
    fill(row, x);
    round_row<Q>(x, k, rows + row * rounded_bytes<Q>(k));
  }
}

// All rounded rows by the panels `from` to `to` of every part, in tiles of about as many rows.
template <class Q, int PARTS, class Store>
inline void quant_block(const Panels<Q> (&w)[PARTS], int64_t from, int64_t to, int64_t rows,
                        char* rounded, const Store& store) {
  const int64_t k = w[0].k, stride = rounded_bytes<Q>(k);
  const int64_t tiles = (rows + QUANT_TILE - 1) / QUANT_TILE;
  alignas(64) float sums[PARTS][QUANT_TILE][LANES];
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t row = rows * tile / tiles;
    const int count = int(rows * (tile + 1) / tiles - row);
    for (int64_t j = from; j < to; ++j) {
      for (int p = 0; p < PARTS; ++p)
        panel_dots_of<Q>(count, w[p].panel(j), k, rounded + row * stride, stride, sums[p]);
      const int64_t left = w[0].n - j * LANES;
      for (int r = 0; r < count; ++r) {
        const float* parts[PARTS];
        for (int p = 0; p < PARTS; ++p) parts[p] = sums[p][r];
        store(row + r, j * LANES, int(left < LANES ? left : LANES), parts);
      }
    }
  }
}

// As `linear` of gemm.h, for parts that have the same n and k. Fill always gives floats.
template <int BITS, int GROUP, int PARTS, class Fill, class Store>
inline void linear(const Step&, Team& team, int64_t rows,
                   const Panels<Quantized<BITS, GROUP>> (&w)[PARTS], const Fill& fill,
                   const Store& store, void* workspace) {
  using Q = Quantized<BITS, GROUP>;
  const int64_t k = w[0].k;
  const bool few = rows <= QUANT_FEW;
  char* rounded = few ? team.scratch : (char*)workspace;
  float* x = (float*)(team.scratch + QUANT_FEW * rounded_bytes<Q>(k));
  int64_t first = 0, last = rows;
  if (!few) team.share(rows, 1, first, last);
  round_rows<Q>(first, last, k, fill, x, rounded);
  if (!few) team.barrier();
  team.share(w[0].count(), 1, first, last);
  const int64_t block = few ? 1 : QUANT_BLOCK / (PARTS * Q::panel_bytes(k)) + 1;
  for (int64_t j = first; j < last; j += block)
    quant_block<Q>(w, j, j + block < last ? j + block : last, rows, rounded, store);
}

// Row n of a weight [N, K]: K floats at `out`.
template <int BITS, int GROUP>
inline void row_of(const Quantized<BITS, GROUP>* packed, int64_t n, int64_t k, float* out) {
  using Q = Quantized<BITS, GROUP>;
  const uint8_t* panel = &packed->byte + n / LANES * Q::panel_bytes(k);
  for (int64_t g = 0; g < Q::groups(k); ++g) {
    const uint8_t* integers = Q::integers(panel, g) + n % LANES * 4;
    const float scale = to_float(Q::scales(panel, g)[n % LANES]);
    const int64_t width = k - g * GROUP < GROUP ? k - g * GROUP : GROUP;
    for (int64_t j = 0; j < width; ++j) {
      const uint8_t byte = integers[j / Q::COLUMNS * 64 + j % 4];
      const int half = BITS == 8 ? byte : j % 8 < 4 ? byte & 15 : byte >> 4;
      out[g * GROUP + j] = scale * float(half - Q::OFFSET);
    }
  }
}

}  // namespace gopt
