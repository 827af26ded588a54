// Logits to tokens: what runtime/sampler.py defines, for R rows of V logits.
//
//   logits --bias, allowed--> penalties --> banned, masks --> / temperature
//          --min-p, top-k, top-p--> draw
//
// A thread has rows of its own, without a barrier. The last rows, when fewer are left than threads,
// are worked on by groups of threads, each with a share of the row's tiles. Rows that need but an
// argmax are read once and written nowhere: bound by bandwidth. Others are copied to floats, which
// are changed, divided by the temperature and cut by select.h; nothing sorts the vocabulary. The
// draw adds up probabilities in doubles by tiles, and walks through the one tile that the random
// number falls into.
//
// The token is that of the numpy sampler, except where rounding decides, and both are right: where
// a sum of probabilities comes within 1e-12 of its bound (the random number for the draw, top-p for
// the nucleus), or a logit within four units in the last place of peak + log(min_p), units of the
// larger of the two. It depends on nothing but its row and that row's parameters: every sum has the
// same order for any number of threads and of other rows.
#pragma once

#include <new>

#include "launch.h"
#include "philox.h"
#include "select.h"

namespace gopt::sampling {

// A list of tokens with a value each for every row; `starts` is null where no row has one. A token
// occurs once in a list; what is not in 0..V is passed over.
struct Lists {
  const int64_t* starts;
  const int64_t* tokens;
  const float* values;

  int64_t count(int64_t row) const { return starts ? starts[row + 1] - starts[row] : 0; }
};

// Bits of the tokens that may be chosen, for rows that have such a list: row r has the `rows[r]`-th,
// none if that is below 0; `rows` is null where no row has one.
struct Masks {
  const int64_t* rows;
  const uint32_t* words;  // [M, ceil(V / 32)]

  bool has(int64_t row) const { return rows && rows[row] >= 0; }
  const uint32_t* of(int64_t row, int64_t vocab) const {
    return words + rows[row] * ((vocab + 31) / 32);
  }
};

// Arrays of R elements are null where no row uses the feature; see SamplingInputs and Sampled.
struct SampleArgs {
  const void* logits;  // [R, V], rows next to each other
  int64_t rows, vocab;
  int64_t threads;
  const int64_t* targets;
  const float* temperature;
  const int64_t* top_k;
  const float* top_p;
  const float* min_p;
  Lists bias, allowed, banned, seen;
  Masks masks;
  const float *repetition, *presence, *frequency;  // not null if `seen` is not
  const uint64_t *seeds, *streams, *counters;      // not null if `temperature` is not
  const int64_t* num_logprobs;
  int64_t most;  // columns of top_ids and top_logprobs
  int64_t* token_ids;
  uint8_t* status;
  float* logprobs;  // and below: used if num_logprobs is not null
  int64_t* ranks;
  int64_t* top_ids;
  float* top_logprobs;
  void* workspace;  // at a multiple of 64
  int64_t workspace_bytes;
};

enum : uint8_t { OK = 0, NOT_FINITE = 1, NOTHING_LEFT = 2 };
// Below this the result is greedy; GREEDY_TEMPERATURE in runtime/sampling_params.py.
constexpr float LEAST_TEMPERATURE = 1e-5f;

// ---- Memory -----------------------------------------------------------------------------------

// Memory of a thread, and of the order in which rows are taken.
struct SampleMemory {
  int64_t rows, tiles;

  explicit SampleMemory(int64_t rows, int64_t vocab)
      : rows(rows), tiles((vocab + TILE - 1) / TILE) {}

  static int64_t whole(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  int64_t order_bytes() const { return whole(rows * 8); }
  int64_t slot_bytes() const {
    return whole(sizeof(Barrier)) + tiles * TILE * 4 + 3 * whole(tiles * 4) + whole(tiles * 8) +
           (COPIES + 2 * SHARES) * BUCKETS * 8 + 64;
  }
  int64_t bytes(int64_t threads) const {
    return order_bytes() + threads * (whole(sizeof(Slot)) + slot_bytes());
  }

  Slot slot(char* at) const {
    const auto take = [&](int64_t bytes) {
      char* here = at;
      at += whole(bytes);
      return here;
    };
    Slot s;
    s.barrier = new (take(sizeof(Barrier))) Barrier;
    s.work = reinterpret_cast<float*>(take(tiles * TILE * 4));
    s.given_peaks = reinterpret_cast<float*>(take(tiles * 4));
    s.peaks = reinterpret_cast<float*>(take(tiles * 4));
    s.scratch = reinterpret_cast<float*>(take(tiles * 4));
    s.sums = reinterpret_cast<double*>(take(tiles * 8));
    s.copies = reinterpret_cast<double*>(take(COPIES * BUCKETS * 8));
    for (double*& one : s.histogram) one = reinterpret_cast<double*>(take(SHARES * BUCKETS * 8));
    s.count = reinterpret_cast<int64_t*>(take(64));
    return s;
  }
};

// ---- Largest ----------------------------------------------------------------------------------

// The largest of sixteen-fold sequences; NaN if any number is.
struct Peak {
  f32x16 top = splat(-INFINITY);
  i32x16 bad = splat_int(0);

  GOPT_INLINE void add(f32x16 x) {
    top = fast_max(x, top);
    bad = bad | (x != x);
  }
  GOPT_INLINE float value() const { return bits_of(bad) ? NAN : largest(top); }
};

// The largest number of each of this thread's tiles.
template <class T>
void find_peaks(const Group& group, const Row<T>& row, float* peaks) {
  int64_t first, last;
  group.team.share(row.tiles(), 1, first, last);
  for (int64_t tile = first; tile < last; ++tile) {
    Peak peak;
    const int64_t end = std::min(row.size, (tile + 1) * TILE);
    for (int64_t place = tile * TILE; place < end; place += LANES) peak.add(row.load(place));
    peaks[tile] = peak.value();
  }
}

// The largest number of a row whose tiles are known.
template <class T>
float peak_of(const Row<T>& row) {
  float peak = -INFINITY;
  for (int64_t tile = 0; tile < row.tiles(); ++tile) peak = maximum(peak, row.peaks[tile]);
  return peak;
}

inline uint8_t judge(float peak) {
  if (peak != peak || peak == INFINITY) return NOT_FINITE;
  return peak == -INFINITY ? NOTHING_LEFT : OK;
}

// The first place of the row's largest number.
template <class T>
int64_t first_place(const Row<T>& row, float peak) {
  int64_t place = 0;
  while (row.peaks[place / TILE] != peak) place += TILE;
  while (to_float(row.values[place]) != peak) ++place;
  return place;
}

// ---- Sums -------------------------------------------------------------------------------------

// What is kept: numbers above `value`, and those that equal it up to the place `last`.
struct Bound {
  float value = -INFINITY;
  int64_t last = INT64_MAX;
};

// Sixteen numbers, with -inf for those that are not kept.
template <class T>
GOPT_INLINE f32x16 load_kept(const Row<T>& row, int64_t place, Bound bound) {
  const f32x16 x = row.load(place), least = splat(bound.value);
  if (place + LANES - 1 <= bound.last) return select(x >= least, x, splat(-INFINITY));
  f32x16 y = select(x > least, x, splat(-INFINITY));
  for (int i = 0; place + i <= bound.last; ++i)
    if (to_float(row.values[place + i]) == bound.value) y.v[i / WIDTH][i % WIDTH] = bound.value;
  return y;
}

// Sums of exp(x - peak) over what is kept, for each of this thread's tiles.
template <class T>
void sum_tiles(const Group& group, const Row<T>& row, double peak, Bound bound) {
  int64_t first, last;
  group.team.share(row.tiles(), 1, first, last);
  for (int64_t tile = first; tile < last; ++tile) {
    f64x16 total = {};
    if (row.peaks[tile] >= bound.value) {
      const int64_t end = std::min(row.size, (tile + 1) * TILE);
      for (int64_t place = tile * TILE; place < end; place += LANES)
        total += exp_negative(widen(load_kept(row, place, bound)) - peak);
    }
    group.lead().sums[tile] = sum(total);
  }
}

// The sum over the whole row, once all threads know it.
template <class T>
double sum_row(Group& group, const Row<T>& row, double peak, Bound bound) {
  sum_tiles(group, row, peak, bound);
  group.team.barrier();
  double total = 0;
  for (int64_t tile = 0; tile < row.tiles(); ++tile) total += group.lead().sums[tile];
  return total;
}

// ---- Choosing ---------------------------------------------------------------------------------

// Put -inf where a mask has no bit; `begin` is a multiple of 32, and nothing but -inf lies beyond
// `end` within as many numbers.
inline void keep_masked(float* work, int64_t begin, int64_t end, const uint32_t* words) {
  i32x16 bit;
  for (int i = 0; i < LANES; ++i) bit.v[i / WIDTH][i % WIDTH] = 1 << i;
  for (int64_t place = begin; place < end; place += LANES) {
    const i32x16 word = splat_int(int32_t(words[place / 32] >> place % 32));
    const f32x16 x = load(work + place);
    store(work + place, select(word & bit, x, splat(-INFINITY)));
  }
}

// Write this thread's share of the row's logits as floats to `work`, changed by what the request
// asks for, and divided by the temperature. The largest of each tile goes to `peaks`.
template <class T>
void prepare(const Group& group, const SampleArgs& args, int64_t r, const Row<T>& given,
             float temperature) {
  float* work = group.lead().work;
  int64_t begin, end;
  group.team.share(given.tiles() * TILE, TILE, begin, end);
  const auto each = [&](const Lists& lists, const auto& change) {
    if (!lists.starts) return;
    for (int64_t i = lists.starts[r]; i < lists.starts[r + 1]; ++i) {
      const int64_t token = lists.tokens[i];
      if (token >= begin && token < end && token < given.size) change(token, lists.values[i]);
    }
  };
  if (args.allowed.count(r)) {
    std::fill(work + begin, work + end, -INFINITY);
    each(args.allowed, [&](int64_t token, float) { work[token] = to_float(given.values[token]); });
  } else {
    for (int64_t place = begin; place < end; place += LANES) store(work + place, given.load(place));
  }
  each(args.bias, [&](int64_t token, float value) { work[token] += value; });
  each(args.seen, [&](int64_t token, float count) {
    const float before = work[token], repetition = args.repetition[r];
    const float often = args.frequency[r] * count;
    const float once = args.presence[r] * float(count > 0);
    float value = before > 0 ? before / repetition : before * repetition;
    value -= often;
    value -= once;
    work[token] = value;
  });
  each(args.banned, [&](int64_t token, float) { work[token] = -INFINITY; });
  if (args.masks.has(r))
    keep_masked(work, begin, std::min(end, given.size), args.masks.of(r, given.size));
  const Row<float> row{work, nullptr, given.tiles() * TILE};
  for (int64_t place = begin; place < end; place += LANES)
    store(work + place, row.load(place) / temperature + 0.0f);  // no -0, which key_of would tell
  find_peaks(group, row, group.lead().peaks);
}

// The fewest most likely tokens of what is kept whose probabilities reach `mass`, below 1: Holtzman
// et al. 2020, "The curious case of neural text degeneration", section 3.1. Tokens below
// (1 - mass) / V lie outside, since all of them together miss less than 1 - mass; half of that
// bound is used, to be safe from rounding.
inline Bound keep_nucleus(Group& group, const Row<float>& row, int64_t vocab, float peak,
                          float least, double mass) {
  const double total = sum_row(group, row, peak, Bound{least});
  const double goal = mass * total;
  const float likely = float(peak + std::log(0.5 * (1.0 - mass) / vocab * total));
  const Cut cut = descend(group, row, std::max(least, likely), peak, goal, Mass{peak});
  // Of tokens as likely as the last one that is needed, the first ones are taken.
  alignas(64) double each[LANES];
  Mass{peak}(splat(cut.value), each);
  double missing = std::ceil((goal - cut.above) / each[0]);
  Bound bound{cut.value};
  if (!(missing < double(vocab))) return bound;
  for (int64_t tile = 0; tile < row.tiles(); ++tile) {
    if (row.peaks[tile] < cut.value) continue;
    for (int64_t place = tile * TILE; place < (tile + 1) * TILE; place += LANES) {
      uint32_t equal = bits_of(row.load(place) == splat(cut.value));
      if (missing > std::popcount(equal)) {
        missing -= std::popcount(equal);
        continue;
      }
      for (; missing > 1; --missing) equal &= equal - 1;
      if (equal) bound.last = place + std::countr_zero(equal);
      if (equal) return bound;
    }
  }
  return bound;
}

// What min-p, top-k and top-p keep; each works on what the one before it left.
inline Bound filter(Group& group, const SampleArgs& args, int64_t r, const Row<float>& row,
                    float peak) {
  float least = -INFINITY;
  if (args.min_p) least = peak + float(std::log(double(args.min_p[r])));
  if (args.top_k && args.top_k[r] > 0 && args.top_k[r] < args.vocab)
    least = std::max(least, kth_largest(group, row, peak, args.top_k[r]));
  if (args.top_p && args.top_p[r] < 1.0f)
    return keep_nucleus(group, row, args.vocab, peak, least, args.top_p[r]);
  return {least};
}

// A token of what is kept: the first at which the sum of probabilities exceeds a random number.
inline int64_t draw(Group& group, const SampleArgs& args, int64_t r, const Row<float>& row,
                    float peak, Bound bound) {
  const double total = sum_row(group, row, peak, bound);
  const double number = uniform(args.seeds[r], args.streams[r], args.counters[r]);
  const double point = std::min(number * total, std::nextafter(total, 0.0));
  double sum = 0;
  int64_t tile = 0;
  while (sum + group.lead().sums[tile] <= point) sum += group.lead().sums[tile++];
  // Rounding may leave the point beyond this tile's last token, but never beyond what is kept.
  int64_t token = 0;
  for (int64_t place = tile * TILE; place < (tile + 1) * TILE; place += LANES) {
    alignas(64) double weights[LANES];
    store(weights, exp_negative(widen(load_kept(row, place, bound)) - peak));
    for (int i = 0; i < LANES; ++i) {
      if (weights[i] == 0) continue;
      token = place + i;
      sum += weights[i];
      if (sum > point) return token;
    }
  }
  return token;
}

// A token for row `r`, whose logits are sound; and what is left of its soundness.
template <class T>
int64_t choose(Group& group, const SampleArgs& args, int64_t r, const Row<T>& given,
               uint8_t& status) {
  const Row<float> row{group.lead().work, group.lead().peaks, given.tiles() * TILE};
  bool random = args.temperature && args.temperature[r] >= LEAST_TEMPERATURE;
  prepare(group, args, r, given, random ? args.temperature[r] : 1.0f);
  group.team.barrier();
  float peak = peak_of(row);
  if (random && std::isinf(peak)) {  // before the division it may have been finite
    group.team.barrier();
    prepare(group, args, r, given, 1.0f);
    group.team.barrier();
    peak = peak_of(row);
    random = false;
  }
  status = judge(peak);
  if (status != OK) return 0;
  if (!random) return first_place(row, peak);
  return draw(group, args, r, row, peak, filter(group, args, r, row, peak));
}

// ---- Reporting --------------------------------------------------------------------------------

// The `count` largest numbers' places, largest first, equal ones in order.
template <class T>
void most_likely(const Row<T>& row, float least, int64_t count, int64_t* places) {
  int64_t found = 0, equal = 0;
  // The greater ones from the front, the equal ones behind them, as far as there is room.
  for (const bool greater : {true, false})
    for (int64_t tile = 0; tile < row.tiles() && found + equal < count; ++tile) {
      if (row.peaks[tile] < least) continue;
      const int64_t end = std::min(row.size, (tile + 1) * TILE);
      for (int64_t place = tile * TILE; place < end && found + equal < count; place += LANES) {
        const f32x16 x = row.load(place), bound = splat(least);
        uint32_t wanted = bits_of(greater ? x > bound : x == bound);
        if (end - place < LANES) wanted &= (1u << (end - place)) - 1;
        for (; wanted && found + equal < count; wanted &= wanted - 1)
          places[greater ? found++ : found + equal++] = place + std::countr_zero(wanted);
      }
    }
  std::sort(places, places + found, [&](int64_t a, int64_t b) {
    const float x = to_float(row.values[a]), y = to_float(row.values[b]);
    return x > y || (x == y && a < b);
  });
}

// Log-probabilities of row `r` under the logits as they were given.
template <class T>
void report(Group& group, const SampleArgs& args, int64_t r, const Row<T>& row, float peak,
            int64_t token) {
  const float chosen = to_float(row.values[token]);
  int64_t first, last, greater = 0;
  group.team.share(row.tiles(), 1, first, last);
  for (int64_t tile = first; tile < last; ++tile) {
    if (!(row.peaks[tile] > chosen)) continue;
    const int64_t end = std::min(row.size, (tile + 1) * TILE);
    for (int64_t place = tile * TILE; place < end; place += LANES)
      greater += std::popcount(bits_of(row.load(place) > splat(chosen)));
  }
  *group.own().count = greater;
  group.team.barrier();
  const double scale = peak + std::log(sum_row(group, row, peak, Bound{}));
  const int64_t count = std::min(args.num_logprobs[r], row.size);
  const float least = count ? kth_largest(group, row, peak, count) : 0;
  if (group.team.rank) return;
  for (int rank = 1; rank < group.team.size; ++rank) greater += *group.slots[rank].count;
  args.logprobs[r] = float(chosen - scale);
  args.ranks[r] = 1 + greater;
  int64_t* ids = args.top_ids + r * args.most;
  if (count) most_likely(row, least, count, ids);
  for (int64_t i = 0; i < count; ++i)
    args.top_logprobs[r * args.most + i] = float(to_float(row.values[ids[i]]) - scale);
}

// ---- Rows -------------------------------------------------------------------------------------

// Whether a row's token is more than the place of its largest logit.
inline bool needs_work(const SampleArgs& args, int64_t r) {
  if (args.targets && args.targets[r] >= 0) return false;
  return (args.temperature && args.temperature[r] >= LEAST_TEMPERATURE) || args.bias.count(r) ||
         args.allowed.count(r) || args.banned.count(r) || args.masks.has(r) ||
         args.seen.count(r);
}

template <class T>
void sample_row(Group& group, const SampleArgs& args, int64_t r) {
  const T* logits = static_cast<const T*>(args.logits) + r * args.vocab;
  const Row<T> row{logits, group.lead().given_peaks, args.vocab};
  find_peaks(group, row, group.lead().given_peaks);
  group.team.barrier();
  const float peak = peak_of(row);
  uint8_t status = judge(peak);
  int64_t token = 0;
  if (args.targets && args.targets[r] >= 0)
    token = args.targets[r];
  else if (status == OK)
    token = needs_work(args, r) ? choose(group, args, r, row, status) : first_place(row, peak);
  if (group.team.rank == 0) {
    args.token_ids[r] = token;
    args.status[r] = status;
    if (args.num_logprobs) {
      args.logprobs[r] = NAN;
      args.ranks[r] = 0;
      std::fill_n(args.top_ids + r * args.most, args.most, 0);
      std::fill_n(args.top_logprobs + r * args.most, args.most, NAN);
    }
  }
  if (args.num_logprobs && args.num_logprobs[r] >= 0 && status == OK)
    report(group, args, r, row, peak, token);
}

// All rows: a thread each as long as there are enough of them, then groups of threads.
template <class T>
void sample_rows(const SampleArgs& args, const int64_t* order, const Slot* slots, int rank,
                 int size) {
  const int64_t alone = args.rows / size * size, left = args.rows - alone;
  for (int64_t i = rank; i < alone; i += size) {
    Group group{slots + rank, Team{0, 1, slots[rank].barrier, nullptr}};
    sample_row<T>(group, args, order[i]);
  }
  if (!left) return;
  const int64_t mine = rank * left / size;
  const int start = int((mine * size + left - 1) / left);
  const int stop = int(((mine + 1) * size + left - 1) / left);
  Group group{slots + start, Team{rank - start, stop - start, slots[start].barrier, nullptr}};
  group.team.barrier();  // the first of them may still be at a row of its own
  sample_row<T>(group, args, order[alone + mine]);
}

// The number of rows that are not OK, or -1 if there is too little memory.
template <class T>
int32_t sample(const SampleArgs& args) {
  const SampleMemory memory(args.rows, args.vocab);
  if (args.workspace_bytes < memory.bytes(args.threads)) return -1;
  if (args.rows == 0) return 0;
  char* at = static_cast<char*>(args.workspace);
  int64_t* order = reinterpret_cast<int64_t*>(at);
  // What takes long first, as the last ones are shared by all threads.
  int64_t ordered = 0;
  for (const bool busy : {true, false})
    for (int64_t r = 0; r < args.rows; ++r)
      if (needs_work(args, r) == busy) order[ordered++] = r;
  at += memory.order_bytes();
  Slot* slots = reinterpret_cast<Slot*>(at);
  at += args.threads * SampleMemory::whole(sizeof(Slot));
  for (int64_t i = 0; i < args.threads; ++i)
    new (slots + i) Slot(memory.slot(at + i * memory.slot_bytes()));
  run_region(int(args.threads), [&](int rank, int size) {
    sample_rows<T>(args, order, slots, rank, size);
  });
  int32_t unsound = 0;
  for (int64_t r = 0; r < args.rows; ++r) unsound += args.status[r] != OK;
  return unsound;
}

}  // namespace gopt::sampling

// What a shared object exports for logits of one type: the sampler, and the bytes it works in.
#define GOPT_SAMPLER(name, type)                                                      \
  GOPT_EXPORT int32_t gopt_sample_##name(const gopt::sampling::SampleArgs* args) {    \
    return gopt::sampling::sample<type>(*args);                                       \
  }                                                                                   \
  GOPT_EXPORT int64_t gopt_sample_##name##_bytes(int64_t rows, int64_t vocab, int64_t threads) { \
    return gopt::sampling::SampleMemory(rows, vocab).bytes(threads);                  \
  }
