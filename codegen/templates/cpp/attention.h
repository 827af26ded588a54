// Attention of a step's queries to the keys and values of their sequences, in pages.
//
//   out[t, h] = sum_j softmax_j(scale * q[t, h] . k[j, h / group]) v[j, h / group]
//
// over the positions j that token t sees; see `ops_state.py` for what window, reaches, softcap,
// alibi and sinks add. q: [T, Hq, D] with any strides, out: [T, Hq, DV]; keys and values are the
// layer's memory, f32, bf16 or f16 (kv.h). Where the state is bf16 and there is dpbf16, queries and
// probabilities are rounded to bf16; the sum of the probabilities is that of the rounded ones, so
// they still weigh to one. Everything else is float.
//
// A thread takes tiles of query rows (attention_walk.h) through their panels, a chunk at a time:
// scores, the running maximum and sum of each row, products with the values. Keys and values are
// read once for all heads that share them. Bound by that reading in decoding, by arithmetic in
// prefill. A tile that ends in another thread's share is finished after one barrier, from the
// partial results in the threads' scratch.
//
// Segments of a sequence are summed apart and join in pairs (attention_join.h). So a row's result
// has the same bits for any batch, any number of threads, and any chunks of its prompt.
#pragma once

#include "attention_join.h"
#include "attention_tiles.h"
#include "attention_walk.h"

namespace gopt {

template <class Q>
struct Queries {
  const Q* data;
  int64_t row_stride, head_stride;  // in elements
};

struct AttentionShape {
  int64_t heads, kv_heads, key_size, value_size;
  int64_t window;  // 0: all tokens are seen
  float scale;
  float softcap;  // 0: none
  bool latent;    // values are the first entries of the keys

  int64_t group() const { return heads / kv_heads; }
};

// What a kernel may add. One that adds something derives from it, says so with a flag and defines
// the function. Positions are exact as floats: they stay below 2^24.
struct PlainAttention {
  static constexpr bool HAS_SINKS = false, HAS_ALIBI = false, HAS_SCORE = false, HAS_MASK = false;

  float sink(int64_t) const { return 0; }
  float slope(int64_t) const { return 0; }
  // What replaces 16 scores, and which of them count: of (score,) positions of query and keys, head
  // and sequence.
  f32x16 score(f32x16 score, f32x16, f32x16, f32x16, f32x16) const { return score; }
  i32x16 mask(f32x16, f32x16, f32x16, f32x16) const { return splat_int(-1); }
};

// ---- Scratch ------------------------------------------------------------------------------------

constexpr int64_t CHUNK_KEYS = ATTENTION_CHUNK * KV_PANEL;

// Bytes of scratch that a thread needs.
constexpr int64_t attention_scratch(int64_t key_size, int64_t value_size) {
  return Joining::bytes(value_size) +
         ATTENTION_ROWS * (1 + round_up(key_size, LANES) + 2 * CHUNK_KEYS) * sizeof(float) +
         CHUNK_KEYS * round_up(value_size, LANES) * sizeof(float);
}

constexpr float LANE_NUMBERS[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Stores x and returns what was stored.
GOPT_INLINE f32x16 rounded_store(float* p, f32x16 x) {
  store(p, x);
  return x;
}
GOPT_INLINE f32x16 rounded_store(bf16* p, f32x16 x) {
  store(p, x);
  return load(p);
}

// ---- One thread's work --------------------------------------------------------------------------

// Sixteen tokens in a chunk.
template <class T>
struct Panel {
  const T *keys, *values;
  int64_t position;  // of its first token
  int first, last;   // tokens in it that any row sees
  bool whole;        // every row sees all 16
};

// Panels whose scores are computed at once.
template <class T>
struct Chunk {
  Panel<T> panels[ATTENTION_CHUNK];
  int64_t count;
};

template <class Q, class T, class Variant>
struct AttentionThread {
  static constexpr int64_t PAIR = KV_PAIR<T>;

  const AttentionWalk& walk;
  const AttentionShape& shape;
  const Variant& variant;
  Queries<Q> queries;
  const T *keys, *values;
  const int32_t* tables;
  int64_t table_stride;
  Q* out;

  int64_t key_padded, value_padded;
  float *rescale, *scores;
  Factor<T>*packed, *weights;
  T* copies;  // of values that cannot be read in place
  Chunk<T> chunk, next;

  void place(char* scratch) {
    key_padded = round_up(shape.key_size, PAIR);
    value_padded = round_up(shape.value_size, LANES);
    rescale = reinterpret_cast<float*>(scratch + Joining::bytes(shape.value_size));
    scores = rescale + ATTENTION_ROWS;
    float* next = scores + ATTENTION_ROWS * CHUNK_KEYS;
    weights = reinterpret_cast<Factor<T>*>(next);
    next += ATTENTION_ROWS * CHUNK_KEYS;
    packed = reinterpret_cast<Factor<T>*>(next);
    next += ATTENTION_ROWS * round_up(shape.key_size, LANES);
    copies = reinterpret_cast<T*>(next);
  }

  // Calls f(r, token, head) for each row of a tile.
  template <class F>
  GOPT_INLINE void for_rows(const AttentionTile& tile, const F& f) const {
    const int64_t group = shape.group();
    int64_t token = tile.row / group, member = tile.row % group;
    for (int64_t r = 0; r < tile.rows; ++r) {
      f(r, token, tile.kv_head * group + member);
      if (++member == group) member = 0, ++token;
    }
  }

  void pack_queries(const AttentionTile& tile) {
    const int64_t start = walk.batch.starts[tile.sequence];
    for_rows(tile, [&](int64_t r, int64_t token, int64_t head) {
      const Q* row =
          queries.data + (start + token) * queries.row_stride + head * queries.head_stride;
      Factor<T>* to = packed + r * key_padded;
      for (int64_t d = 0; d < shape.key_size; d += LANES) {
        const int left = int(shape.key_size - d < LANES ? shape.key_size - d : LANES);
        store_n(to + d, load_n(row + d, left), left);
      }
      if (key_padded > shape.key_size) to[shape.key_size] = from_float<Factor<T>>(0);
    });
  }

  // The chunk that begins at panel `first` of a tile, if that is before `last`: up to where whole
  // chunks of the sequence end.
  Chunk<T> locate(const AttentionTile& tile, int64_t first, int64_t last) const {
    Chunk<T> found;
    const int64_t whole = ATTENTION_CHUNK - (tile.panel + first) % ATTENTION_CHUNK;
    found.count = last - first < whole ? last - first : whole;
    const int64_t in_block = walk.panels_per_block(), block_size = walk.block_size;
    for (int64_t i = 0; i < found.count; ++i) {
      const int64_t panel = tile.panel + first + i, block = panel / in_block;
      const int64_t inside = panel % in_block;
      const int64_t base = tables[tile.sequence * table_stride + block] * shape.kv_heads;
      const int64_t position = block * block_size + inside * KV_PANEL;
      const int64_t low = tile.low - position, high = tile.high - position;
      const int64_t held = block_size - inside * KV_PANEL;
      Panel<T>& p = found.panels[i];
      p.position = position;
      p.first = int(low > 0 ? low : 0);
      p.last = int(high < held ? high : held);
      if (p.last > KV_PANEL) p.last = KV_PANEL;
      p.whole = p.last == KV_PANEL && position >= tile.all_low &&
                position + KV_PANEL <= tile.all_high;
      p.keys = keys + (base + tile.kv_head) * key_elements<T>(block_size, shape.key_size) +
               inside * KV_PANEL * key_padded;
      p.values = shape.latent ? p.keys
                              : values +
                                    (base + tile.kv_head) *
                                        value_elements<T>(block_size, shape.value_size) +
                                    inside * KV_PANEL * value_padded;
    }
    return found;
  }

  // Copies the values of the chunk that cannot be read in place.
  void settle() {
    for (int64_t i = 0; i < chunk.count; ++i) {
      Panel<T>& p = chunk.panels[i];
      if (!shape.latent && p.first % PAIR == 0 && p.last % PAIR == 0) continue;
      T* copy = copies + i * KV_PANEL * value_padded;
      shape.latent ? copy_latent(p, copy) : copy_values(p, copy);
      p.values = copy;
    }
  }

  // Values of the pairs that are seen in part or whole, zeros for the other tokens in them.
  void copy_values(const Panel<T>& p, T* copy) const {
    const int64_t width = value_padded * PAIR;
    for (int64_t token = p.first / PAIR * PAIR; token < p.last; token += PAIR) {
      const T* from = p.values + token * value_padded;
      T* to = copy + token * value_padded;
      if (p.first <= token && token + PAIR <= p.last) {
        std::memcpy(to, from, width * sizeof(T));
        continue;
      }
      const int64_t seen = p.first <= token ? 0 : 1;  // one of a pair
      for (int64_t i = 0; i < width; ++i) to[i] = i % PAIR == seen ? from[i] : from_float<T>(0);
    }
  }
  void copy_latent(const Panel<T>& p, T* copy) const {
    for (int64_t token = p.first / PAIR * PAIR; token < round_up(p.last, PAIR); ++token) {
      T* row = copy + token / PAIR * PAIR * value_padded + token % PAIR;
      const T* from = p.keys + token * PAIR;
      const bool seen = p.first <= token && token < p.last;
      for (int64_t d = 0; d < shape.value_size; ++d)
        row[d * PAIR] = seen ? from[d / PAIR * PAIR * KV_PANEL + d % PAIR] : from_float<T>(0);
    }
  }

  // scores[r][key] of the chunk.
  void multiply_keys(int64_t rows) {
    constexpr int64_t STRIDE = KV_PANEL * PAIR;
    const int64_t steps = key_padded / PAIR;
    const auto tiles = [&]<int COLUMNS>(int64_t i, std::integral_constant<int, COLUMNS>) {
      for_row_tiles(rows, [&]<int ROWS>(int64_t row) {
        const T *from[COLUMNS], *ahead[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
          from[c] = chunk.panels[i + c].keys;
          ahead[c] = row == 0 && i + c < next.count ? next.panels[i + c].keys : from[c];
        }
        f32x16 sum[ROWS][COLUMNS] = {};
        multiply<T>(packed + row * key_padded, key_padded, from, ahead, STRIDE, steps, sum);
        for (int r = 0; r < ROWS; ++r)
          for (int c = 0; c < COLUMNS; ++c)
            store(scores + (row + r) * CHUNK_KEYS + (i + c) * KV_PANEL, sum[r][c]);
      });
    };
    int64_t i = 0;
    for (; i + TILE_COLUMNS <= chunk.count; i += TILE_COLUMNS)
      tiles(i, std::integral_constant<int, TILE_COLUMNS>());
    for (; i < chunk.count; ++i) tiles(i, std::integral_constant<int, 1>());
  }

  // Scores of one row's query with a panel's keys, as powers of two.
  GOPT_INLINE f32x16 shaped(f32x16 score, const Panel<T>& p, int64_t own, int64_t head,
                            int64_t sequence) const {
    score = score * shape.scale;
    if (shape.softcap > 0) score = tanh_bounded(score / shape.softcap) * shape.softcap;
    const f32x16 position = load(LANE_NUMBERS) + float(p.position);
    if constexpr (Variant::HAS_ALIBI) score = fma(position, splat(variant.slope(head)), score);
    const f32x16 query = splat(float(own)), at = splat(float(sequence));
    if constexpr (Variant::HAS_SCORE)
      score = variant.score(score, query, position, splat(float(head)), at);
    score = score * LOG2_E;
    if constexpr (Variant::HAS_MASK) {
      const i32x16 shown = variant.mask(query, position, splat(float(head)), at);
      score = select(shown, score, splat(-INFINITY));
    }
    return score;
  }

  // The scores of the keys that a row sees, of a panel that not all rows see all of; -inf elsewhere.
  GOPT_INLINE f32x16 seen(f32x16 score, const Panel<T>& p, int64_t own, int64_t end) const {
    int64_t first = p.first, last = p.last;
    if (end - p.position < last) last = end - p.position;
    if (shape.window > 0 && own + 1 - shape.window - p.position > first)
      first = own + 1 - shape.window - p.position;
    const f32x16 lane = load(LANE_NUMBERS), hidden = splat(-INFINITY);
    score = select(lane < splat(float(first)), hidden, score);
    return select(lane < splat(float(last)), score, hidden);
  }

  // Scores to weights[r][key] = 2^(score - top), with the tops and sums brought up to date.
  void weigh(const AttentionTile& tile, const Partial& partial) {
    constexpr bool SIMPLE = !Variant::HAS_ALIBI && !Variant::HAS_SCORE && !Variant::HAS_MASK;
    const int64_t position = walk.first_position(tile.sequence), count = chunk.count;
    const bool simple = SIMPLE && shape.softcap == 0;
    const f32x16 scale = splat(shape.scale * LOG2_E);
    for_rows(tile, [&](int64_t r, int64_t token, int64_t head) {
      float* row = scores + r * CHUNK_KEYS;
      const int64_t end = walk.end_of(tile.sequence, token);
      f32x16 greatest = splat(-INFINITY);
      for (int64_t i = 0; i < count; ++i) {
        const Panel<T>& p = chunk.panels[i];
        f32x16 score = load(row + i * KV_PANEL);
        score = simple ? score * scale
                       : shaped(score, p, position + token, head, tile.sequence);
        if (!p.whole) score = seen(score, p, position + token, end);
        store(row + i * KV_PANEL, score);
        greatest = fast_max(greatest, score);
      }
      const float before = partial.top[r], here = largest(greatest);
      const float top = before > here ? before : here;
      const f32x16 base = splat(top == -INFINITY ? 0 : top);  // all hidden: all weights are zero
      f32x16 total = zeros();
      for (int64_t i = 0; i < count; ++i) {
        Factor<T>* weight = weights + r * CHUNK_KEYS + i * KV_PANEL;
        total += rounded_store(weight, exp2_negative(load(row + i * KV_PANEL) - base));
      }
      partial.top[r] = top;
      rescale[r] = before - base.v[0][0];
      row[0] = sum(total);
    });
    for (int64_t r = 0; r < tile.rows; r += LANES)
      store(rescale + r, exp2_negative(load(rescale + r)));
    for (int64_t r = 0; r < tile.rows; ++r)
      partial.sum[r] = partial.sum[r] * rescale[r] + scores[r * CHUNK_KEYS];
  }

  // values[r] = rescale[r] * values[r] + sum over the chunk of weights[r][key] * value[key].
  void multiply_values(int64_t rows, const Partial& partial, bool fresh) {
    const int64_t stride = value_padded * PAIR;
    const auto tiles = [&]<int COLUMNS>(int64_t column, std::integral_constant<int, COLUMNS>) {
      for_row_tiles(rows, [&]<int ROWS>(int64_t row) {
        f32x16 sum[ROWS][COLUMNS];
        float* to = partial.values + row * value_padded + column;
        for (int r = 0; r < ROWS; ++r)
          for (int c = 0; c < COLUMNS; ++c)
            sum[r][c] =
                fresh ? zeros() : load(to + r * value_padded + c * LANES) * rescale[row + r];
        for (int64_t i = 0; i < chunk.count; ++i) {
          const Panel<T>& p = chunk.panels[i];
          const int64_t first = p.first / PAIR, steps = (p.last + PAIR - 1) / PAIR - first;
          const bool fetch = row == 0 && i < next.count && !shape.latent;
          const T *from[COLUMNS], *ahead[COLUMNS];
          for (int c = 0; c < COLUMNS; ++c) {
            from[c] = p.values + first * stride + (column + c * LANES) * PAIR;
            ahead[c] = fetch ? next.panels[i].values + (column + c * LANES) * PAIR : from[c];
          }
          multiply<T>(weights + row * CHUNK_KEYS + i * KV_PANEL + first * PAIR, CHUNK_KEYS, from,
                      ahead, stride, steps, sum);
        }
        for (int r = 0; r < ROWS; ++r)
          for (int c = 0; c < COLUMNS; ++c) store(to + r * value_padded + c * LANES, sum[r][c]);
      });
    };
    int64_t column = 0;
    for (; column + TILE_COLUMNS * LANES <= value_padded; column += TILE_COLUMNS * LANES)
      tiles(column, std::integral_constant<int, TILE_COLUMNS>());
    for (; column < value_padded; column += LANES) tiles(column, std::integral_constant<int, 1>());
  }

  // The panels [first, last) of a tile, segment after segment.
  void compute(const AttentionTile& tile, int64_t first, int64_t last, Joining& joining) {
    const int64_t size = walk.segment_panels();
    next = locate(tile, first, last);
    fetch_next();
    pack_queries(tile);
    while (first < last) {
      const int64_t segment = (tile.panel + first) / size;
      const int64_t ends = (segment + 1) * size - tile.panel;
      const Partial partial = joining.open(segment, tile.rows);
      for (const int64_t begin = first; first < last && first < ends; first += chunk.count) {
        chunk = next;
        next = locate(tile, first + chunk.count, last);
        settle();
        multiply_keys(tile.rows);
        weigh(tile, partial);
        multiply_values(tile.rows, partial, first == begin);
      }
    }
  }

  // Asks for the next chunk's memory.
  void fetch_next() const {
    for (int64_t i = 0; i < next.count; ++i) {
      const Panel<T>& p = next.panels[i];
      for (int64_t d = 0; d < key_padded / PAIR; ++d)
        __builtin_prefetch(p.keys + d * KV_PANEL * PAIR);
    }
    for (int64_t i = 0; i < next.count && !shape.latent; ++i) {
      const Panel<T>& p = next.panels[i];
      for (int64_t d = 0; d < value_padded / PAIR; ++d)
        __builtin_prefetch(p.values + d * KV_PANEL * PAIR);
    }
  }

  // Divides a tile's weighted values by their sums, into the output.
  void finish(const AttentionTile& tile, const Partial& partial) const {
    const int64_t start = walk.batch.starts[tile.sequence];
    for_rows(tile, [&](int64_t r, int64_t token, int64_t head) {
      float total = partial.sum[r], scale = 1;
      if constexpr (Variant::HAS_SINKS) {
        const float sink = variant.sink(head) * LOG2_E;
        const float top = partial.top[r] > sink ? partial.top[r] : sink;
        const float base = top == -INFINITY ? 0 : top;
        scale = exp2_of(partial.top[r] - base);
        total = total * scale + exp2_of(sink - base);
      }
      const float factor = total == 0 ? 0 : scale / total;
      Q* to = out + ((start + token) * shape.heads + head) * shape.value_size;
      const float* from = partial.values + r * value_padded;
      for (int64_t d = 0; d < shape.value_size; d += LANES) {
        const int left = int(shape.value_size - d < LANES ? shape.value_size - d : LANES);
        store_n(to + d, load(from + d) * factor, left);
      }
    });
  }
};

// Zeros for the rows of no sequence.
template <class Q>
void clear_rows(const Step& step, const Team& team, const int32_t* starts, int64_t width, Q* out) {
  const int64_t begin = starts[0], end = starts[step.S];
  int64_t first, last;
  team.share(begin + step.T - end, 1, first, last);
  for (int64_t i = first; i < last; ++i)
    std::memset(out + (i < begin ? i : end + i - begin) * width, 0, width * sizeof(Q));
}

// T: the state's element type; memory: of one layer; out: [T, Hq, DV], contiguous.
template <class T, class Q, class Variant = PlainAttention>
void attention(const Step& step, Team& team, const AttentionShape& shape, const Queries<Q>& queries,
               const KvLayer& memory, const AttentionBatch& batch, Q* out,
               const Variant& variant = Variant()) {
  clear_rows(step, team, batch.starts, shape.heads * shape.value_size, out);
  const AttentionWalk walk{batch,        step.S,            shape.kv_heads, shape.group(),
                           shape.window, memory.block_size, team.size};
  const int64_t length = walk.length();
  AttentionThread<Q, T, Variant> thread{walk, shape, variant, queries,
                                        static_cast<const T*>(memory.keys),
                                        static_cast<const T*>(memory.values),
                                        batch.tables, step.P, out};
  thread.place(team.scratch);
  AttentionTile open{};  // the last tile, if its end is in another share
  Joining own(team.scratch, shape.value_size), other(team.scratch, shape.value_size);
  walk.visit_share(length, team.rank, [&](const AttentionTile& tile, int64_t first, int64_t last) {
    Joining& joining = first == 0 ? own : other;
    joining.begin(first == 0);
    thread.compute(tile, first, last, joining);
    if (first == 0 && last == tile.panels) thread.finish(tile, own.all(tile.rows));
    if (first == 0 && last < tile.panels) open = tile;
  });
  other.publish();
  team.barrier();
  if (open.rows == 0) return;
  int64_t done = walk.before(open, walk.border(length, team.rank + 1));
  for (int rank = team.rank + 1; done < open.panels; ++rank) {
    const int64_t next = walk.before(open, walk.border(length, rank + 1));
    if (next > done) own.take(step.scratch + rank * step.scratch_stride, open.rows);
    done = next;
  }
  thread.finish(open, own.all(open.rows));
}

}  // namespace gopt
