"""Finding keys and values that were computed before: a chain of digests over full blocks.

A block's name is a digest of the name of the block before it and of its own tokens, so it stands
for the whole context up to its end. Digests are keyed with a secret of this process, and a chain
begins with the request's salt: nobody can make a name, and whoever has another salt has other
names for the same tokens, so neither contents nor the time they take tell anything across salts.

A block is found when three things hold. It is full, so nobody writes to it again. All its tokens
are known. The step that wrote it has landed, so no failed step's block is ever found, and whatever
reads it comes later. A step that lands shows all three at once: whatever it read had been drawn.

While a running sequence computes blocks that another could use, the other waits for them instead
of computing them too. It waits only for one that the policy puts before it, and so not forever. The
samples of a request share its prompt in this way too.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable

from blake3 import blake3

from graphopt.embedding import Embedding
from graphopt.errors import GraphoptError
from graphopt.ir.types import StateType

from .kv_cache import BlockPool
from .sequence import Sequence, Status

_KEY_BYTES = 32
_TOKEN_BYTES = 8


class Scope(enum.Enum):
    """Who finds the blocks of a request."""

    ALL = "all"  # every request with the same salt
    REQUEST = "request"  # its own samples, and itself after a preemption
    NONE = "none"  # nobody


def reason_without(state: StateType, embedding: Embedding | None = None) -> str | None:
    """Why blocks do not hold all that is wanted of their tokens; None if they do.

    The layers that see a window of the context only keep all of it in blocks, as others do.
    """
    if embedding is not None:
        return "a vector is made of the rows of its text, and they do not lie in KV blocks"
    if state.kind in ("kv", "latent"):
        return None
    return f"a {state.kind} state is one per sequence and does not lie in KV blocks"


class PrefixCache:
    """The names of blocks, and who is computing which.

    Args:
        pool: the blocks.
        scope: who finds them.
    """

    def __init__(self, pool: BlockPool, scope: Scope = Scope.ALL) -> None:
        self.scope = scope
        self._pool = pool
        self._salt_key, self._block_key = os.urandom(_KEY_BYTES), os.urandom(_KEY_BYTES)
        self._coming: dict[bytes, Sequence] = {}

    def root(self, salt: bytes) -> bytes:
        """What the names of a request's blocks begin with."""
        if self.scope is not Scope.ALL:
            return os.urandom(_KEY_BYTES)
        return blake3(salt, key=self._salt_key).digest()

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks that a waiting sequence can begin with; at least one token is left to compute.

        They are not held yet.
        """
        blocks: list[int] = []
        for name in self._useful(sequence):
            block = self._pool.find(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def writer(self, sequence: Sequence) -> Sequence | None:
        """A running sequence that is computing blocks which ``sequence`` could begin with."""
        if sequence.awaits is None or sequence.awaits not in self._coming:
            useful = self._useful(sequence)
            missing = (name for name in useful if self._pool.find(name) is None)
            sequence.awaits = None
            if next(missing, None) in self._coming:
                sequence.awaits = next(name for name in reversed(useful) if name in self._coming)
        return None if sequence.awaits is None else self._coming[sequence.awaits]

    def begin(self, sequence: Sequence, found: int) -> None:
        """A sequence is admitted with ``found`` blocks, and computes the rest of what it knows."""
        sequence.published, sequence.awaits = found, None
        if sequence.scores_prompt:
            return  # it takes a row for each token, which is slower than to compute it again
        for name in self._names(sequence, sequence.target // self._pool.block_size)[found:]:
            self._coming.setdefault(name, sequence)

    def landed(self, sequence: Sequence, stop: int) -> None:
        """A step has landed that computed the tokens of ``sequence`` before ``stop``."""
        full = stop // self._pool.block_size
        if sequence.status is not Status.RUNNING or full == sequence.published:
            return  # it lost its blocks while the step was on its way, or no block became full
        names = self._names(sequence, full)
        for place in range(sequence.published, len(names)):
            self._pool.name(sequence.table[place], names[place])
            self._drop(sequence, names[place])
        sequence.published = full

    def end(self, sequence: Sequence) -> None:
        """A sequence is about to lose its blocks; what it has not computed will not come."""
        for name in sequence.names[sequence.published :]:
            self._drop(sequence, name)

    def forget(self, sequence: Sequence) -> None:
        """Something is wrong with what ``sequence`` reads: nobody is to find its blocks again."""
        self._pool.forget(sequence.table.tolist())

    def check(self, running: Iterable[Sequence]) -> None:
        """Demand that names are those of known tokens, and that nobody is waited for in vain.

        Raises:
            GraphoptError: a block is found that holds something else, or is waited for in vain.
        """
        for sequence in running:
            known = (sequence.num_tokens - sequence.unknown) // self._pool.block_size
            names = self._extended([], sequence, len(sequence.names))
            if len(names) > known or names != sequence.names:
                raise GraphoptError("a KV block has the name of another", got=sequence)
        for name, sequence in self._coming.items():
            late = name in sequence.names[: sequence.published]
            if late or name not in sequence.names or sequence.status is not Status.RUNNING:
                raise GraphoptError("a KV block that is waited for does not come", got=sequence)

    def _useful(self, sequence: Sequence) -> list[bytes]:
        """Names of the blocks that a sequence need not compute itself.

        The last token is computed, because its logits are needed, and so are those that it has yet
        to score.
        """
        reach = sequence.target - 1
        if sequence.scores_prompt:
            reach = min(reach, sequence.scored)
        return self._names(sequence, reach // self._pool.block_size)

    def _names(self, sequence: Sequence, count: int) -> list[bytes]:
        """Names of the first ``count`` blocks, whose tokens are all known."""
        if self.scope is Scope.NONE:
            return []
        names, size = sequence.names, self._pool.block_size
        if not names and sequence.index:  # the samples of a request begin alike
            names.extend(sequence.request.sequences[0].names[: sequence.num_prompt // size])
        return self._extended(names, sequence, count)[:count]

    def _extended(self, names: list[bytes], sequence: Sequence, count: int) -> list[bytes]:
        """The list ``names`` of the first blocks, after adding up to the first ``count``."""
        size = self._pool.block_size
        tokens = sequence.tokens(len(names) * size, count * size).tobytes()
        width = size * _TOKEN_BYTES
        name = names[-1] if names else sequence.request.root
        for start in range(0, len(tokens), width):
            name = blake3(name + tokens[start : start + width], key=self._block_key).digest()
            names.append(name)
        return names

    def _drop(self, sequence: Sequence, name: bytes) -> None:
        if self._coming.get(name) is sequence:
            del self._coming[name]
