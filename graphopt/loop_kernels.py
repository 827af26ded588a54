"""The kernels between the steps of a plan on a GPU: what they are called, and what they take.

An artifact for a GPU holds them besides the kernels of its steps, compiled like those, so that a
step can set out before the host knows the tokens of the one ahead of it: ``sample`` makes tokens of
logits, ``take`` puts them into the next step's inputs, and ``advance`` makes all of a decode's
inputs, so that the host writes none. Here is what the compiler and the runtime have to agree on.

Each mapping lists arrays in the order of the kernel's pointers, by name, with their element types.
A row of ``sample`` is a row of logits, ``R`` in all. ``take`` is for ``T`` tokens. A row of
``advance`` is a sequence with one token, so ``T = R = S`` in the step that it prepares.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir.dtype import DType

SAMPLE, TAKE, ADVANCE = "sample", "take", "advance"
LOOP_KERNELS = (SAMPLE, TAKE, ADVANCE)

# What ``sample`` takes after the logits ``[R, V]``: SamplingInputs, where every row has every
# parameter, and a row without a list has an empty one.
SAMPLE_OPERANDS: Mapping[str, DType] = {
    "targets": DType.I64,
    "temperatures": DType.F32,
    "top_ks": DType.I64,
    "top_ps": DType.F32,
    "min_ps": DType.F32,
    "bias_starts": DType.I64,
    "bias_tokens": DType.I64,
    "bias_values": DType.F32,
    "allowed_starts": DType.I64,
    "allowed_tokens": DType.I64,
    "banned_starts": DType.I64,
    "banned_tokens": DType.I64,
    "seen_starts": DType.I64,
    "seen_tokens": DType.I64,
    "seen_counts": DType.F32,
    "repetition": DType.F32,
    "presence": DType.F32,
    "frequency": DType.F32,
    "seeds": DType.I64,
    "streams": DType.I64,
    "counters": DType.I64,
    "num_logprobs": DType.I64,
    "mask_rows": DType.I64,
    "mask_words": DType.I32,
}
# What it gives, see Sampled; ``K`` columns of ``top_ids`` and ``top_logprobs``.
SAMPLE_RESULTS: Mapping[str, DType] = {
    "token_ids": DType.I64,
    "status": DType.U8,
    "logprobs": DType.F32,
    "ranks": DType.I64,
    "top_ids": DType.I64,
    "top_logprobs": DType.F32,
}

# Where a token is from, if not the sampled one that ``sources`` names; PADDING is for ``advance``.
FROM_HOST, PADDING = -1, -2
# No block begins with a token.
IN_TABLE = -1
# What ``take`` reads, and what it writes, which may be ``host_tokens`` itself.
#   sampled      [R] the tokens of the step before; other memory than ``token_ids``
#   sources      [T] the row of that step whose token it is; or FROM_HOST
#   host_tokens  [T] the token where it is FROM_HOST
TAKE_OPERANDS: Mapping[str, DType] = {
    "sampled": DType.I64,
    "sources": DType.I64,
    "host_tokens": DType.I64,
}
TAKE_RESULTS: Mapping[str, DType] = {"token_ids": DType.I64}

# What ``advance`` reads, and ``ADVANCED`` of it leaves so that the next step can begin with it.
#   sampled      [R] the tokens of the step before; other memory than ``token_ids``
#   sources      [S] the row of that step whose token goes on; or FROM_HOST, or PADDING; after it
#                each row's own number
#   host_tokens  [S] the token of a row that is FROM_HOST
#   tables       [S, P] blocks of each sequence, with room for one more token
#   new_blocks   [S] the block that begins with this token, which comes into the table; or IN_TABLE,
#                as after it
#   lengths      [S] tokens of each sequence before the step that is prepared; after it, then
#   counters     [S] of random numbers, likewise
ADVANCE_OPERANDS: Mapping[str, DType] = {
    "sampled": DType.I64,
    "sources": DType.I64,
    "host_tokens": DType.I64,
    "tables": DType.I32,
    "new_blocks": DType.I32,
    "lengths": DType.I32,
    "counters": DType.I64,
}
ADVANCED = ("sources", "tables", "new_blocks", "lengths", "counters")
# What it writes, see StepInputs. A row that is PADDING is one token of a sequence of none: it sees
# nothing, writes nothing, and stays so; its counter stays as it is.
ADVANCE_RESULTS: Mapping[str, DType] = {
    "token_ids": DType.I64,
    "positions": DType.I64,
    "rows": DType.I64,
    "slots": DType.I64,
    "starts": DType.I32,
}
