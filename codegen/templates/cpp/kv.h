// Memory of keys and values, in blocks of B tokens, and the writing of one token's rows to it.
//
// Only this header and attention.h know the layout; `kv_bytes` in graphopt/kv_layout.py knows its
// size. Bp is B rounded up to 16 tokens, which make a panel; Dp is D rounded up to the pair: 2 for
// bf16 and f16, 1 for f32; DVp is DV rounded up to 16.
//
//   keys    [num_blocks][heads][Bp/16][Dp/pair][16][pair]  scores of 16 keys without a sum of lanes
//   values  [num_blocks][heads][Bp/pair][DVp][pair]        16 columns for a pair of probabilities
//
// A latent layer has keys only; its values are their first DV entries. Tokens that were never
// written, and columns past DV, may hold anything. Slots: block * B + offset; -1 writes nothing.
// Threads may write different tokens at the same time.
#pragma once

#include <cstdint>

#include "vec.h"

namespace gopt {

// One layer's memory: what a kernel's operand of state points to.
struct KvLayer {
  void* keys;
  void* values;  // null in a latent layer
  int64_t block_size;
};

template <class T>
constexpr int64_t KV_PAIR = sizeof(T) == 2 ? 2 : 1;
constexpr int64_t KV_PANEL = 16;

constexpr int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Elements of one block's keys, or values, of one head.
template <class T>
constexpr int64_t key_elements(int64_t block_size, int64_t size) {
  return round_up(block_size, KV_PANEL) * round_up(size, KV_PAIR<T>);
}
template <class T>
constexpr int64_t value_elements(int64_t block_size, int64_t size) {
  return round_up(block_size, KV_PANEL) * round_up(size, LANES);
}

// Writes rows[heads][size], one token's keys.
template <class T>
void write_keys(const KvLayer& layer, int64_t heads, int64_t size, int64_t slot,
                const float* rows) {
  if (slot < 0) return;
  constexpr int64_t PAIR = KV_PAIR<T>;
  const int64_t block = slot / layer.block_size, offset = slot % layer.block_size;
  const int64_t padded = round_up(size, PAIR), per_head = key_elements<T>(layer.block_size, size);
  T* out = static_cast<T*>(layer.keys) + block * heads * per_head +
           offset / KV_PANEL * KV_PANEL * padded + offset % KV_PANEL * PAIR;
  for (int64_t head = 0; head < heads; ++head, out += per_head, rows += size) {
    for (int64_t d = 0; d < padded; d += PAIR) {
      T pair[PAIR];
      for (int64_t i = 0; i < PAIR; ++i) pair[i] = from_float<T>(d + i < size ? rows[d + i] : 0.f);
      std::memcpy(out + d * KV_PANEL, pair, sizeof pair);
    }
  }
}

// Writes rows[heads][size], one token's keys whose first entries are its values.
template <class T>
void write_latent(const KvLayer& layer, int64_t heads, int64_t size, int64_t slot,
                  const float* rows) {
  write_keys<T>(layer, heads, size, slot, rows);
}

// Writes rows[heads][size], one token's values.
template <class T>
void write_values(const KvLayer& layer, int64_t heads, int64_t size, int64_t slot,
                  const float* rows) {
  if (slot < 0) return;
  constexpr int64_t PAIR = KV_PAIR<T>;
  const int64_t block = slot / layer.block_size, offset = slot % layer.block_size;
  const int64_t per_head = value_elements<T>(layer.block_size, size);
  T* out = static_cast<T*>(layer.values) + block * heads * per_head +
           offset / PAIR * PAIR * round_up(size, LANES) + offset % PAIR;
  for (int64_t head = 0; head < heads; ++head, out += per_head, rows += size)
    for (int64_t d = 0; d < size; ++d) out[d * PAIR] = from_float<T>(rows[d]);
}

}  // namespace gopt
