// Who computes what in attention: a step's work as one line of equal shares, one share a thread.
//
// A sequence's query rows are its new tokens times the heads that share a KV head, heads varying
// fastest; a tile is up to ATTENTION_ROWS of them. A tile sees a run of panels, each 16 tokens of a
// block. Sequences, KV heads and tiles in this order make a line, on which a panel of a tile is as
// long as its time: what reading it costs, and what each row costs. A share begins and ends between
// any two segments of panels, so one long sequence keeps all threads busy; a tile that several
// threads compute is put together after a barrier. Every thread walks the whole line,
// O(S + tiles), and comes to the same answer; where rows reach ahead it looks at each, O(T).
//
// Segments and chunks are those of the sequence, counted from its first panel, wherever a tile or a
// share begins: what a row adds up, and in which order, depends on its own position and
// on how far it reaches.
#pragma once

#include "kv.h"
#include "parallel.h"

namespace gopt {

constexpr int64_t ATTENTION_ROWS = 64;
// Panels whose scores are computed at once. Decoding over 8192 tokens with 2, 4, 8 and 16 of them
// is within 2 % (19 GB/s a thread for 2 KV heads of 64, 22 for 8 of 128).
constexpr int64_t ATTENTION_CHUNK = 8;
// Tokens of a segment, if blocks are full panels: what tiles are cut into, and what is summed before
// it joins other segments. Joining two takes a 256th of the arithmetic of one.
constexpr int64_t ATTENTION_SEGMENT = 256;
// The bits of a segment's number: positions stay below 2^24, and blocks of 17 tokens are two panels.
constexpr int ATTENTION_LEVELS = 17;
// Reading a panel of keys and values costs as much as computing so many rows of it: with heads of
// 64 it is 4 KiB, a quarter of a microsecond at 16 GB/s a thread, and a row takes 30 ns.
constexpr int64_t READING_ROWS = 8;

// Whose rows are whose, and how far they see; see the IR's `attention`.
struct AttentionBatch {
  const int32_t* starts;             // [S + 1]
  const int32_t* lengths;            // [S]
  const int32_t* tables;             // [S, P]
  const int32_t* reaches = nullptr;  // [T]; null: no row sees what comes after it
};

struct AttentionTile {
  int64_t sequence, kv_head;
  int64_t row, rows;          // of the sequence's query rows, the first and how many
  int64_t low, high;          // positions that any of the rows sees
  int64_t all_low, all_high;  // those that each of them sees
  int64_t panel, panels;      // the first of the sequence's panels, and how many
  int64_t place;              // where it begins on the line
};

struct AttentionWalk {
  const AttentionBatch& batch;
  int64_t sequences, kv_heads, group, window, block_size;
  int size;  // threads

  int64_t panels_per_block() const { return (block_size + KV_PANEL - 1) / KV_PANEL; }
  int64_t panel_of(int64_t position) const {
    return position / block_size * panels_per_block() + position % block_size / KV_PANEL;
  }
  int64_t query_rows(int64_t s) const {
    return (batch.starts[s + 1] - int64_t(batch.starts[s])) * group;
  }
  // Position of a sequence's first new token.
  int64_t first_position(int64_t s) const {
    return batch.lengths[s] - (batch.starts[s + 1] - int64_t(batch.starts[s]));
  }

  // The position after the last one that a sequence's new token sees.
  int64_t end_of(int64_t s, int64_t token) const {
    const int64_t own = first_position(s) + token;
    if (batch.reaches == nullptr) return own + 1;
    int64_t end = batch.reaches[batch.starts[s] + token];
    if (end > batch.lengths[s]) end = batch.lengths[s];
    if (window > 0 && end > own + window) end = own + window;
    return end > own ? end : own + 1;
  }

  // The panels of a segment: whole chunks.
  int64_t segment_panels() const {
    const int64_t held = block_size < KV_PANEL ? block_size : KV_PANEL;
    return ATTENTION_SEGMENT / held / ATTENTION_CHUNK * ATTENTION_CHUNK;
  }

  // The tile of sequence s whose first row is `row`, of any KV head and place.
  AttentionTile tile_at(int64_t s, int64_t row) const {
    AttentionTile tile{s, 0, row, query_rows(s) - row, 0, 0, 0, 0, 0, 0, 0};
    if (tile.rows > ATTENTION_ROWS) tile.rows = ATTENTION_ROWS;
    const int64_t token = row / group, last_token = (row + tile.rows - 1) / group;
    const int64_t first = first_position(s) + token, last = first_position(s) + last_token;
    if (window > 0 && first >= window) tile.low = first - window + 1;
    if (window > 0 && last >= window) tile.all_low = last - window + 1;
    tile.high = end_of(s, last_token);
    tile.all_high = end_of(s, token);
    if (batch.reaches != nullptr) {
      for (int64_t t = token; t <= last_token; ++t) {
        const int64_t end = end_of(s, t);
        if (end > tile.high) tile.high = end;
        if (end < tile.all_high) tile.all_high = end;
      }
    }
    tile.panel = panel_of(tile.low);
    tile.panels = panel_of(tile.high - 1) - tile.panel + 1;
    return tile;
  }
  // How long one of its panels is on the line.
  static int64_t unit(const AttentionTile& tile) { return tile.rows + READING_ROWS; }

  int64_t length_of(int64_t s) const {
    int64_t length = 0;
    for (int64_t row = 0; row < query_rows(s); row += ATTENTION_ROWS) {
      const AttentionTile tile = tile_at(s, row);
      length += tile.panels * unit(tile);
    }
    return length;
  }
  int64_t length() const {
    int64_t length = 0;
    for (int64_t s = 0; s < sequences; ++s) length += length_of(s);
    return length * kv_heads;
  }
  int64_t border(int64_t length, int rank) const {
    return length / size * rank + length % size * rank / size;
  }

  // How many of a tile's panels lie before a border. All threads cut a tile at the same segments.
  int64_t before(const AttentionTile& tile, int64_t border) const {
    if (border <= tile.place) return 0;
    if (border >= tile.place + tile.panels * unit(tile)) return tile.panels;
    const int64_t panel = tile.panel + (border - tile.place) / unit(tile), size = segment_panels();
    const int64_t cut = (panel + size / 2) / size * size - tile.panel;
    return cut < 0 ? 0 : cut < tile.panels ? cut : tile.panels;
  }

  // Calls visit(tile, first, last) for the panels of each tile that are this thread's.
  template <class Visit>
  void visit_share(int64_t length, int rank, const Visit& visit) const {
    const int64_t begin = border(length, rank), end = border(length, rank + 1);
    int64_t place = 0;
    for (int64_t s = 0; s < sequences && place < end; ++s) {
      const int64_t head_length = length_of(s);
      for (int64_t head = 0; head < kv_heads && place < end; ++head) {
        if (place + head_length <= begin) {
          place += head_length;
          continue;
        }
        for (int64_t row = 0; row < query_rows(s) && place < end; row += ATTENTION_ROWS) {
          AttentionTile tile = tile_at(s, row);
          tile.kv_head = head;
          tile.place = place;
          place += tile.panels * unit(tile);
          const int64_t first = before(tile, begin), last = before(tile, end);
          if (first < last) visit(tile, first, last);
        }
      }
    }
  }
};

}  // namespace gopt
