"""A decoder's compiled piece as a program without Python, so that sanitizers see all of it.

``main`` reads buffers and steps from a file, gives each buffer memory of its own, runs the piece
and the sampler, and writes logits and tokens.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from graphopt.codegen.cpp.build import FLAGS, HEADERS, build, find_compiler
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.widen import widen
from graphopt.isa import isa_named
from graphopt.kv_layout import kv_bytes
from graphopt.packing import Layout, pack
from graphopt.plan_arguments import Argument, Kind, arguments_of, layer_of
from graphopt.quantization import pack_quantized
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.slots import as_f32
from graphopt.stages import Lowered

BLOCKS = 36
Bytes = bytes | int  # what a buffer holds, or how many bytes it has, filled with NaN

_MAIN = """
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#include "parallel.h"
#include "sample.h"
extern "C" void PIECE(const gopt::Step*, void* const*);
extern "C" int32_t gopt_sample_DTYPE(const gopt::sampling::SampleArgs*);
extern "C" int64_t gopt_sample_DTYPE_bytes(int64_t, int64_t, int64_t);

static std::FILE* file;
static int64_t number() {
  int64_t value;
  if (std::fread(&value, 8, 1, file) != 1) std::exit(3);
  return value;
}
static void* memory(int64_t size) {
  void* place = nullptr;
  if (posix_memalign(&place, 64, size) != 0) std::exit(4);
  std::memset(place, 0xFF, size);
  return place;
}
// Buffers of their own: sizes, and what they hold or nothing.
static std::vector<void*> buffers() {
  std::vector<void*> found(number());
  for (void*& one : found) {
    const int64_t size = number(), given = number();
    one = memory(size);
    if (given && size && std::fread(one, size, 1, file) != 1) std::exit(5);
  }
  return found;
}

int main(int, char** argv) {
  file = std::fopen(argv[1], "rb");
  std::FILE* const out = std::fopen(argv[2], "wb");
  if (!file || !out) return 2;
  const int64_t threads = number(), stride = number(), block_size = number(), vocab = number();
  std::vector<void*> kept = buffers();
  char* const scratch = (char*)memory(stride * threads);
  const int64_t steps = number();
  for (int64_t n = 0; n < steps; ++n) {
    gopt::Step step{};
    step.T = number(), step.R = number(), step.S = number(), step.P = number();
    step.scratch = scratch, step.scratch_stride = stride, step.threads = threads;
    step.last = number(), step.block_size = block_size;
    std::vector<void*> own = buffers(), a(number());
    for (void*& one : a) {
      const int64_t place = number(), k = kept.size();
      one = place < k ? kept[place] : own[place - k];
    }
    const int64_t output = number();
    void* const logits = own[output - kept.size()];
    PIECE(&step, a.data());
    std::vector<float> temperature(step.R, 0.8f), top_p(step.R, 0.9f);
    std::vector<int64_t> tokens(step.R), top_k(step.R, 5), logprobs(step.R, 3), ranks(step.R);
    std::vector<int64_t> ids(step.R * 3);
    std::vector<uint64_t> ones(step.R, 1);
    std::vector<uint8_t> status(step.R);
    std::vector<float> first(step.R), top(step.R * 3);
    gopt::sampling::SampleArgs args{};
    args.logits = logits, args.rows = step.R, args.vocab = vocab, args.threads = threads;
    args.workspace_bytes = gopt_sample_DTYPE_bytes(step.R, vocab, threads);
    args.workspace = memory(args.workspace_bytes);
    args.token_ids = tokens.data(), args.status = status.data();
    if (gopt_sample_DTYPE(&args) < 0) return 6;  // the largest logit
    if (step.R) std::fwrite(logits, ITEM * vocab, step.R, out);
    if (step.R) std::fwrite(tokens.data(), 8, step.R, out);
    args.temperature = temperature.data(), args.top_k = top_k.data(), args.top_p = top_p.data();
    args.seeds = args.streams = args.counters = ones.data();
    args.num_logprobs = logprobs.data(), args.most = 3;
    args.logprobs = first.data(), args.ranks = ranks.data();
    args.top_ids = ids.data(), args.top_logprobs = top.data();
    if (gopt_sample_DTYPE(&args) < 0) return 7;  // drawn from the most likely
    if (step.R) std::fwrite(tokens.data(), 8, step.R, out);
    std::free(args.workspace);
    for (void* one : own) std::free(one);
  }
  for (void* one : kept) std::free(one);
  std::free(scratch);
  return std::fclose(out);
}
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program made of a step, and what the interpreter does."""

    logits: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float32]
    greedy: npt.NDArray[np.int64]
    drawn: npt.NDArray[np.int64]


def random_weights(lowered: Lowered) -> dict[str, torch.Tensor]:
    """Weights of the lowered graph: matrices that keep the size of a row, norms around one."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for value in lowered.graph.weights:
        assert isinstance(value.type, TensorType)
        shape, dtype = [int(str(size)) for size in value.type.shape], value.type.dtype
        if dtype.is_float:
            scales = dtype is DType.F16 and "scale" in value.name
            tensor = (
                torch.randn(shape, generator=generator) / max(1, shape[-1] if shape else 1) ** 0.5
            )
            tensor = tensor.abs() / 40 + 1e-3 if scales else tensor
            tensor = 1 + tensor if len(shape) == 1 else tensor
        elif dtype is DType.I64:  # rows of a table
            tensor = torch.zeros(shape)
        else:
            tensor = torch.randint(-8, 8, shape, generator=generator)
        found[value.name] = tensor.to(torch_dtype(dtype))
    return found


class Program:
    """One decoder's piece as a program.

    Args:
        lowered: all of whose steps are compiled, as one piece.
        isa: what to compile for.
        flags: such as those of a sanitizer.
        edit: changes to the sources: text, and what stands in its place.
    """

    def __init__(
        self,
        lowered: Lowered,
        isa: str,
        flags: Sequence[str],
        edit: tuple[str, str] | None = None,
    ) -> None:
        assert lowered.native is not None
        (self.piece,) = lowered.pieces
        self.lowered, self.native = lowered, lowered.native
        self.weights = random_weights(lowered)
        output = lowered.graph.outputs[0].type
        assert isinstance(output, TensorType)
        self.vocab, self.dtype = int(str(output.shape[-1])), output.dtype
        self.folder = Path(tempfile.mkdtemp())
        sources = self.native.sources(lowered.pieces)
        if edit is not None:
            assert any(edit[0] in text for text in sources.values()), edit
            sources = {name: text.replace(*edit) for name, text in sources.items()}
        data = build(sources, isa_named(isa), flags=("-O1", *flags))
        library = self.folder / "kernels.so"
        library.write_bytes(data)
        main = _MAIN.replace("PIECE", f"piece_{self.piece.body}").replace("DTYPE", self.dtype.value)
        (self.folder / "main.cpp").write_text(main.replace("ITEM", str(self.dtype.nbytes)))
        compiler = find_compiler()
        assert compiler is not None
        flags = (*FLAGS, "-O0", *isa_named(isa).flags, *flags, f"-I{HEADERS}")
        files = [str(self.folder / name) for name in ("main.cpp", "kernels.so")]
        command = [*compiler.command, *flags, *files, "-o", str(self.folder / "main")]
        subprocess.run(command, check=True)

    def run(
        self, steps: Sequence[StepInputs], threads: int, block_size: int
    ) -> tuple[subprocess.CompletedProcess[str], list[Answer]]:
        """Run the program and the interpreter on ``steps``, one after the other."""
        case, out = self.folder / "case.bin", self.folder / "out.bin"
        out.unlink(missing_ok=True)
        with case.open("wb") as file:
            file.write(self._case(steps, threads, block_size))
        done = subprocess.run(
            [str(self.folder / "main"), str(case), str(out)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"LD_LIBRARY_PATH": str(self.folder)},
        )
        if done.returncode:
            return done, []
        return done, self._answers(out.read_bytes(), steps, block_size)

    def _state(self) -> tuple[Value, StateType]:
        inputs = self.lowered.graph.inputs
        return next((v, v.type) for v in inputs if isinstance(v.type, StateType))

    def _case(self, steps: Sequence[StepInputs], threads: int, block_size: int) -> bytes:
        kept: list[Bytes] = []
        places: dict[tuple[Kind, int | str], int] = {}
        for name in self.weights:
            packed = next((p for p, one in self.native.layouts.items() if one.scales == name), name)
            places[Kind.WEIGHT, name] = len(kept)
            kept.append(stored_bytes(packed, self.weights, self.native.layouts))
        _, state = self._state()
        for number, layer in enumerate(state.layers):
            sizes = kv_bytes(layer, block_size, is_latent=state.is_latent)
            for kind, size in zip((Kind.KEYS, Kind.VALUES), sizes, strict=True):
                places[kind, number] = len(kept)
                kept.append(size * BLOCKS)
        stride = self.native.scratch_bytes(self.lowered.pieces)
        text = _numbers(threads, stride, block_size, self.vocab) + _buffers(kept)
        text += _numbers(len(steps))
        return text + b"".join(self._step(step, dict(places), len(kept)) for step in steps)

    def _step(
        self, inputs: StepInputs, places: dict[tuple[Kind, int | str], int], first: int
    ) -> bytes:
        sizes = sizes_of(inputs)
        memory, own = self.lowered.memory, []
        names = {slot: name for name, slot in memory.inputs.items()}
        pointers: list[int] = []
        for number, step in enumerate(self.piece.steps):
            for one in arguments_of(step, layer_of(self.lowered.graph, step)):
                key = _key(one, number)
                if key not in places:
                    places[key] = first + len(own)
                    own.append(self._buffer(one, step.workspace, inputs, names, sizes))
                pointers.append(places[key])
        return (
            _numbers(*sizes.values(), len(self.piece.steps))
            + _buffers(own)
            + _numbers(len(pointers), *pointers, places[Kind.SLOT, memory.output])
        )

    def _buffer(
        self,
        one: Argument,
        workspace: object,
        inputs: StepInputs,
        names: Mapping[int, str],
        sizes: Mapping[str, int],
    ) -> Bytes:
        if one.kind is Kind.WORKSPACE:
            return evaluate(workspace, sizes)  # type: ignore[arg-type]
        if one.number in names:
            array: npt.NDArray[np.generic] = getattr(inputs, names[one.number])
            return array.tobytes()
        return evaluate(self.lowered.memory.slots[one.number].nbytes, sizes)

    def _answers(self, data: bytes, steps: Sequence[StepInputs], block_size: int) -> list[Answer]:
        graph = widen(self.lowered.graph)
        state = next(value.type for value in graph.inputs if isinstance(value.type, StateType))
        weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in self.weights.items()
        }
        interpreter, value = Interpreter(graph, weights), self._state()[0]
        memory = PagedState.allocate(state, BLOCKS, block_size)
        answers, start = [], 0
        for inputs in steps:
            rows = len(inputs.rows)
            given = {
                one.name: torch.from_numpy(getattr(inputs, one.name))
                for one in graph.inputs
                if not isinstance(one.type, StateType)
            }
            (expected,) = interpreter.run({**given, value.name: memory})
            size = rows * self.vocab
            holds = np.float32 if self.dtype is DType.F32 else np.uint16
            raw = np.frombuffer(data, holds, size, start)
            start += size * self.dtype.nbytes
            tokens = np.frombuffer(data, np.int64, 2 * rows, start).reshape(2, rows)
            start += 16 * rows
            logits = as_f32(raw, self.dtype).reshape(rows, self.vocab)
            answers.append(Answer(logits, expected.float().numpy(), tokens[0], tokens[1]))
        assert start == len(data)
        return answers


def stored_bytes(
    name: str, weights: Mapping[str, torch.Tensor], layouts: Mapping[str, Layout]
) -> bytes:
    """A weight as an artifact stores it."""
    tensor, layout = weights[name], layouts.get(name)
    array = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    if layout is None:
        return array.tobytes()
    if layout.quant is not None:
        return pack_quantized(array, weights[layout.scales].numpy(), layout).tobytes()
    return pack(array, layout).tobytes()


def sizes_of(inputs: StepInputs) -> dict[str, int]:
    """T, R, S and P of a step."""
    return {
        "T": len(inputs.token_ids),
        "R": len(inputs.rows),
        "S": len(inputs.lengths),
        "P": inputs.tables.shape[1],
    }


def _key(one: Argument, number: int) -> tuple[Kind, int | str]:
    if one.kind is Kind.WEIGHT:
        return one.kind, one.name
    return one.kind, number if one.kind is Kind.WORKSPACE else one.number


def _numbers(*values: int) -> bytes:
    return np.array(values, dtype=np.int64).tobytes()


def _buffers(holds: Sequence[Bytes]) -> bytes:
    parts = [_numbers(len(holds))]
    for one in holds:
        parts += [_numbers(one, 0)] if isinstance(one, int) else [_numbers(len(one), 1), bytes(one)]
    return b"".join(parts)
