// Attention over the layers of a model, one after the other in one parallel region, as a piece does.
#include "attention.h"
#include "launch.h"

using namespace gopt;

// The layers' keys and values follow each other; all tables are the same.
extern "C" __attribute__((visibility("default"))) void attend_layers(
    const Step* step, const AttentionShape* shape, int64_t layers, const bf16* queries, char* keys,
    int64_t key_bytes, char* values, int64_t value_bytes, const int32_t* starts,
    const int32_t* lengths, const int32_t* tables, bf16* out) {
  Barrier shared;
  const AttentionBatch batch{starts, lengths, tables};
  const Queries<bf16> rows{queries, shape->heads * shape->key_size, shape->key_size};
  run_region(step->threads, [&](int rank, int size) {
    Team team{rank, size, &shared, step->scratch + rank * step->scratch_stride};
    for (int64_t layer = 0; layer < layers; ++layer) {
      const KvLayer memory{keys + layer * key_bytes, values + layer * value_bytes,
                           step->block_size};
      attention<bf16>(*step, team, *shape, rows, memory, batch, out);
      team.barrier();
    }
  });
}

extern "C" __attribute__((visibility("default"))) int64_t scratch_bytes(
    const AttentionShape* shape) {
  return attention_scratch(shape->key_size, shape->value_size);
}
