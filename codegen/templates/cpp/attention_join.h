// What is summed of a tile in attention, segment by segment, and how the sums join.
//
// A sum's bits depend on the order of its terms. Here the segments of a sequence are the leaves of a
// binary tree that begins at segment 0: 0 and 1 join, 2 and 3, then 0..1 with 2..3, and so on. A
// segment that a row sees nothing of changes nothing: its weight is exactly zero. So what a row adds
// up, in which order, follows from its position and reach: from no tile, no window of other rows, no
// thread, and no other sequence.
//
// Segments come in order, and sums wait for their neighbours on a stack. Between two of them stands
// the number of the segment that the later one begins with; the more trailing zeros it has, the
// later the two join. A thread that has only a part of a tile, not its beginning, joins what is
// whole in it; the thread with the beginning takes what is left and goes on.
#pragma once

#include <bit>
#include <cmath>

#include "attention_tiles.h"
#include "attention_walk.h"

namespace gopt {

GOPT_INLINE float exp2_of(float x) {
  float y[LANES];
  store(y, exp2_negative(splat(x)));
  return y[0];
}

// What is known of a tile's rows from some of its segments: for each row the greatest score, the sum
// of the weights 2^(score - greatest), and the values weighted so. Scores are times log2(e).
struct Partial {
  float *top, *sum, *values;

  static constexpr int64_t bytes(int64_t value_size) {
    return ATTENTION_ROWS * (2 + round_up(value_size, LANES)) * sizeof(float);
  }
  static Partial in(char* memory) {
    float* top = reinterpret_cast<float*>(memory);
    return {top, top + ATTENTION_ROWS, top + 2 * ATTENTION_ROWS};
  }

  // Adds what other segments have of the same rows.
  void add(const Partial& other, int64_t rows, int64_t value_size) const {
    const int64_t stride = round_up(value_size, LANES);
    for (int64_t r = 0; r < rows; ++r) {
      const float greatest = top[r] > other.top[r] ? top[r] : other.top[r];
      const float base = greatest == -INFINITY ? 0 : greatest;
      const float mine = exp2_of(top[r] - base), theirs = exp2_of(other.top[r] - base);
      top[r] = greatest;
      sum[r] = sum[r] * mine + other.sum[r] * theirs;
      float* to = values + r * stride;
      for (int64_t d = 0; d < stride; d += LANES)
        store(to + d, load(to + d) * mine + load(other.values + r * stride + d) * theirs);
    }
  }
};

// Sums that wait for their neighbours: a thread has two of these, for tiles whose beginning is its
// own, one after the other, and for the one that begins in another's share.
struct Joining {
  static constexpr int OWN = ATTENTION_LEVELS + 2, OTHER = 2 * ATTENTION_LEVELS + 1;

  // Tells other threads what is left of a part.
  struct Left {
    int64_t count, first[OTHER];
  };
  struct Sum {
    Partial partial;
    int64_t first;  // segment
  };

  char* scratch;
  int64_t value_size;
  bool owns = false;  // the tile's beginning
  int count = 0;
  Sum sums[OTHER];

  Joining(char* scratch, int64_t value_size) : scratch(scratch), value_size(value_size) {}

  // Bytes of a thread.
  static constexpr int64_t bytes(int64_t value_size) {
    return round_up(sizeof(Left), 64) + (OWN + OTHER) * Partial::bytes(value_size);
  }
  Partial memory(char* thread, int place) const {
    return Partial::in(thread + round_up(sizeof(Left), 64) + place * Partial::bytes(value_size));
  }

  void begin(bool owns_beginning) {
    owns = owns_beginning;
    count = 0;
  }

  // Where to sum a segment, the next one; nothing is in it yet but its values, which are anything.
  Partial open(int64_t segment, int64_t rows) {
    settle(segment, rows);
    const Partial partial = memory(scratch, owns ? OTHER + count : count);
    for (int64_t r = 0; r < rows; ++r) partial.top[r] = -INFINITY, partial.sum[r] = 0;
    sums[count++] = {partial, segment};
    return partial;
  }

  void publish() const {
    Left* left = reinterpret_cast<Left*>(scratch);
    left->count = count;
    for (int i = 0; i < count; ++i) left->first[i] = sums[i].first;
  }

  // Goes on with what another thread has published.
  void take(char* thread, int64_t rows) {
    const Left* left = reinterpret_cast<const Left*>(thread);
    for (int i = 0; i < left->count; ++i) {
      settle(left->first[i], rows);
      sums[count++] = {memory(thread, i), left->first[i]};
    }
  }

  // The sum of all segments.
  const Partial& all(int64_t rows) {
    while (count > 1) join(rows);
    return sums[0].partial;
  }

  // Joins what is whole when segment `next` begins.
  void settle(int64_t next, int64_t rows) {
    while (count > 1) {
      const uint64_t last = sums[count - 1].first;
      if (std::countr_zero(last) >= std::countr_zero(uint64_t(next))) return;
      if (!owns && int64_t(last & (last - 1)) != sums[count - 2].first) return;
      join(rows);
    }
  }

  void join(int64_t rows) {
    --count;
    sums[count - 1].partial.add(sums[count].partial, rows, value_size);
  }
};

}  // namespace gopt
