// Where to cut a row of numbers, found without sorting it: the k-th largest, or the number down to
// which the greatest ones weigh enough.
//
// A row is looked at in tiles whose largest numbers are known, so that what lies below a bound is
// passed over by tiles. Between the bounds a histogram over the order of all floats narrows eight
// bits at a time: at most four passes for 32 bits, whatever the numbers are. The threads of a group
// fill histograms of shares of the tiles; after a barrier all read all of them, and so come to the
// same result, which has the same bits for a group of any size: the shares are the row's. Bound by
// the first pass, which adds a weight per number.
#pragma once

#include <algorithm>
#include <functional>

#include "parallel.h"
#include "wide.h"

namespace gopt::sampling {

constexpr int TILE = 256;
constexpr int BITS = 8, BUCKETS = 1 << BITS;
// Each lane has a histogram of its own: where all numbers fall into few buckets, an addition would
// wait for the one before it. A row of 150,000 takes 0.29 ms instead of 1.07 ms with four of 512.
constexpr int COPIES = LANES;
// Shares of a row's tiles, each with a histogram.
constexpr int SHARES = 8;

// The place of a number in the order of all floats, and back; -0 has to be made +0 before.
GOPT_INLINE uint32_t key_of(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return bits ^ (bits >> 31 ? 0xffffffff : 0x80000000);
}
GOPT_INLINE float value_of(uint32_t key) {
  return std::bit_cast<float>(key >> 31 ? key ^ 0x80000000 : ~key);
}

// A bit for each lane of a mask.
GOPT_INLINE uint32_t bits_of(i32x16 mask) {
#if defined(GOPT_AVX512)
  return _mm512_movepi32_mask((__m512i)mask.v[0]);
#elif defined(GOPT_AVX2)
  return _mm256_movemask_ps((__m256)mask.v[0]) | _mm256_movemask_ps((__m256)mask.v[1]) << 8;
#else
  uint32_t bits = 0;
  for (int i = 0; i < LANES; ++i) bits |= uint32_t(mask.v[i / WIDTH][i % WIDTH] & 1) << i;
  return bits;
#endif
}

// What a thread of a group owns, and lets the others of the group read.
struct Slot {
  Barrier* barrier;
  float* work;          // a row, in whole tiles
  float* given_peaks;   // the largest of each tile of the given logits
  float* peaks;         // and of the row that is worked on
  double* sums;         // a number for each tile
  float* scratch;       // another, that nobody else reads
  double* copies;       // [COPIES][BUCKETS], that nobody else reads
  double* histogram[2];  // [SHARES][BUCKETS]; one may be read while the other is filled
  int64_t* count;
};

// Threads that work on one row: `slots[0]` belongs to the first of them.
struct Group {
  const Slot* slots;
  Team team;
  int turn = 0;

  const Slot& lead() const { return slots[0]; }
  const Slot& own() const { return slots[team.rank]; }
};

// A row of numbers with the largest of each tile.
template <class T>
struct Row {
  const T* values;
  const float* peaks;
  int64_t size;

  int64_t tiles() const { return (size + TILE - 1) / TILE; }

  // Sixteen numbers; past the end there is -inf.
  GOPT_INLINE f32x16 load(int64_t place) const {
    return place + LANES <= size ? gopt::load(values + place) : load_end(place);
  }
  __attribute__((noinline)) f32x16 load_end(int64_t place) const {
    float t[LANES];
    for (int i = 0; i < LANES; ++i)
      t[i] = place + i < size ? to_float(values[place + i]) : -INFINITY;
    return gopt::load(t);
  }
};

// A weight of one for each number.
struct Count {
  GOPT_INLINE void operator()(f32x16, double* weights) const {
    for (int i = 0; i < LANES; ++i) weights[i] = 1.0;
  }
};

// The weight of a number is its probability, up to a common factor.
struct Mass {
  double peak;
  GOPT_INLINE void operator()(f32x16 x, double* weights) const {
    store(weights, exp_negative(widen(x) - peak));
  }
};

// Add up the weights of a share's numbers in [low, high], by their distance from `high`.
template <class T, class Weight>
void fill_share(const Row<T>& row, int share, uint32_t low, uint32_t high, int shift,
                const Weight& weight, double* copies, double* histogram) {
  const float least = value_of(low);
  const f32x16 bottom = splat(least), top = splat(value_of(high));
  const int64_t first = row.tiles() * share / SHARES, last = row.tiles() * (share + 1) / SHARES;
  bool empty = true;
  for (int64_t tile = first; tile < last; ++tile) {
    if (row.peaks[tile] < least) continue;
    if (empty) std::fill_n(copies, COPIES * BUCKETS, 0.0);
    empty = false;
    const int64_t end = std::min(row.size, (tile + 1) * TILE);
    for (int64_t place = tile * TILE; place < end; place += LANES) {
      const f32x16 x = row.load(place) + 0.0f;
      uint32_t inside = bits_of((x >= bottom) & (x <= top));
      if (end - place < LANES) inside &= (1u << (end - place)) - 1;
      if (!inside) continue;
      alignas(64) float values[LANES];
      alignas(64) double weights[LANES];
      store(values, x);
      weight(x, weights);
      const auto add = [&](int i) {
        copies[i * BUCKETS + ((high - key_of(values[i])) >> shift)] += weights[i];
      };
      if (inside == 0xffff) {
        for (int i = 0; i < LANES; ++i) add(i);
      } else {
        for (; inside; inside &= inside - 1) add(std::countr_zero(inside));
      }
    }
  }
  for (int i = 0; i < BUCKETS; ++i) {
    histogram[i] = empty ? 0.0 : copies[i];
    for (int copy = 1; copy < COPIES && !empty; ++copy) histogram[i] += copies[copy * BUCKETS + i];
  }
}

// This thread's shares.
template <class T, class Weight>
void fill_histogram(const Group& group, const Row<T>& row, uint32_t low, uint32_t high, int shift,
                    const Weight& weight) {
  int64_t first, last;
  group.team.share(SHARES, 1, first, last);
  for (int64_t share = first; share < last; ++share)
    fill_share(row, int(share), low, high, shift, weight, group.own().copies,
               group.lead().histogram[group.turn] + share * BUCKETS);
}

struct Cut {
  float value;
  double above;  // weight of all greater numbers
};

// The greatest number in [least, most] such that it and all greater ones weigh `goal`, or else the
// least that weighs anything. Nothing may be above `most`, and something has to weigh.
template <class T, class Weight>
Cut descend(Group& group, const Row<T>& row, float least, float most, double goal,
            const Weight& weight) {
  uint32_t low = key_of(least + 0.0f), high = key_of(most + 0.0f);
  for (double above = 0;;) {
    const int shift = std::max(0, int(std::bit_width(high - low)) - BITS);
    fill_histogram(group, row, low, high, shift, weight);
    group.team.barrier();
    uint32_t bucket = 0;
    double before = above, sum = above;
    for (uint32_t i = 0; i < BUCKETS && sum < goal; ++i) {
      double inside = 0;
      for (int share = 0; share < SHARES; ++share)
        inside += group.lead().histogram[group.turn][share * BUCKETS + i];
      if (inside == 0) continue;
      bucket = i;
      before = sum;
      sum += inside;
    }
    group.turn ^= 1;
    above = before;
    high -= bucket << shift;
    low = std::max(low, high - std::min(high, (1u << shift) - 1));
    if (shift == 0) return {value_of(high), above};
  }
}

// The k-th largest number, 1 <= k <= row.size; `most` is the largest. Of tiles with k largest
// numbers up to a bound there are k numbers up to it, so nothing below it need be looked at.
template <class T>
float kth_largest(Group& group, const Row<T>& row, float most, int64_t k) {
  float least = -INFINITY;
  if (k <= row.tiles()) {
    float* peaks = group.own().scratch;
    std::copy_n(row.peaks, row.tiles(), peaks);
    std::nth_element(peaks, peaks + k - 1, peaks + row.tiles(), std::greater<float>());
    least = peaks[k - 1];
  }
  return descend(group, row, least, most, double(k), Count{}).value;
}

}  // namespace gopt::sampling
