"""A small decoder as an artifact: two layers, grouped heads, a sliding window in the second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from graphopt.artifact import Artifact, Contents, ModelInfo, read_artifact, write_artifact
from graphopt.codegen.backend import assign
from graphopt.codegen.torch import TorchBackend
from graphopt.embedding import Embedding
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.printer import print_graph
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ledger import Ledger
from graphopt.passes.memory import plan_memory
from graphopt.passes.partition import partition, why_not_on
from graphopt.plan import Limits, Plan
from graphopt.region import make_region
from graphopt.target import Target

VOCAB, HIDDEN, HEADS, KV_HEADS, SIZE, WINDOW = 29, 16, 4, 2, 4, 5
T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")


def decoder(dtype: DType = DType.F32, embedding: Embedding | None = None) -> Graph:
    """The graph; rotary embedding is left out, positions enter through a learned table.

    With ``embedding`` it ends with the rows, and where that is ``whole`` tokens see all others.
    """
    whole = embedding is not None and embedding.whole
    b = GraphBuilder("tiny")

    def weight(name: str, *shape: int) -> Value:
        return b.weight(name, TensorType(dtype, shape))

    def project(x: Value, name: str, rows: int, columns: int) -> Value:
        return b.one("linear", [x, weight(name, rows, columns)])

    layers = (
        LayerState(KV_HEADS, SIZE, SIZE, dtype),
        LayerState(KV_HEADS, SIZE, SIZE, dtype, WINDOW),
    )
    token_ids, positions = (
        b.input(name, TensorType(DType.I64, (T,))) for name in ("token_ids", "positions")
    )
    rows = b.input("rows", TensorType(DType.I64, (R,)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    starts = b.input("starts", TensorType(DType.I32, (S + 1,)))
    lengths = b.input("lengths", TensorType(DType.I32, (S,)))
    tables = b.input("tables", TensorType(DType.I32, (S, P)))
    reaches = [b.input("reaches", TensorType(DType.I32, (T,)))] if whole else []
    state = b.input("kv", StateType("kv", layers))
    sees = {"reach": True} if whole else {}
    hidden = b.one("embed", [token_ids, weight("embed", VOCAB, HIDDEN)])
    placed = b.one("embed", [positions, weight("places", 64, HIDDEN)])
    hidden = b.one("add", [hidden, placed])
    for number, layer in enumerate(layers):
        normed = b.one("rms_norm", [hidden, weight(f"{number}.norm", HIDDEN)], {"eps": 1e-5})
        q, k, v = (
            b.one(
                "reshape",
                [project(normed, f"{number}.{name}", heads * SIZE, HIDDEN)],
                {"shape": (T, heads, SIZE)},
            )
            for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
        )
        state = b.one("kv_write", [state, k, v, slots], {"layer": number})
        mixed = b.one(
            "attention",
            [q, state, starts, lengths, tables, *reaches],
            {"layer": number, "scale": 0.5, "window": layer.window, **sees},
        )
        flat = b.one("reshape", [mixed], {"shape": (T, HEADS * SIZE)})
        hidden = b.one("add", [hidden, project(flat, f"{number}.o", HIDDEN, HEADS * SIZE)])
        gated = b.one("silu", [project(hidden, f"{number}.up", 24, HIDDEN)])
        hidden = b.one("add", [hidden, project(gated, f"{number}.down", HIDDEN, 24)])
    last = b.one("index_select", [hidden, rows], {"dim": 0})
    if embedding is not None:
        return b.finish([b.one("rms_norm", [last, weight("norm", HIDDEN)], {"eps": 1e-5})])
    return b.finish([project(last, "head", VOCAB, HIDDEN)])


def weights_of(graph: Graph) -> dict[str, torch.Tensor]:
    """Weights large enough that a wrong token or position shows."""
    generator = torch.Generator().manual_seed(0)
    return {
        value.name: (torch.randn(value.type.shape, generator=generator) * 0.4).to(
            torch_dtype(value.type.dtype)
        )
        for value in graph.weights
    }


def write_decoder(
    path: Path,
    *,
    dtype: DType = DType.F32,
    tokenizer: Path | None = None,
    embedding: Embedding | None = None,
    dense: Mapping[str, np.ndarray] = MappingProxyType({}),
    **limits: int,
) -> Artifact:
    """The decoder's artifact at ``path``, with the weights of dense layers, f32, beside its own."""
    graph = decoder(dtype, embedding)
    regions = [make_region(graph, [place]) for place in range(len(graph.nodes))]
    ledger = Ledger()
    memory = plan_memory(graph, regions, assign(graph, regions, [TorchBackend()], ledger))
    sizes = {"max_model_len": 48, "vocab_size": VOCAB, "max_rows": 16, **limits}
    state = next(value.type for value in graph.inputs if isinstance(value.type, StateType))
    plan = Plan(
        name="tiny",
        target="cpu",
        dtype=dtype,
        block_size=4,
        state=state,
        limits=Limits(**sizes),
        inputs=memory.inputs,
        output=memory.output,
        slots=memory.slots,
        pieces=partition(graph, memory.steps, why_not_on(Target("cpu"))),
        embedding=embedding,
    )
    weights = weights_of(graph)
    files = {} if tokenizer is None else {one.name: one.read_bytes() for one in tokenizer.iterdir()}
    contents = Contents(
        plan=plan,
        graph_text=print_graph(graph),
        ledger=ledger,
        model=ModelInfo("tiny", "TinyForCausalLM", "tiny", 1),
        weights=[
            *((value.name, dtype, tuple(value.type.shape)) for value in graph.weights),
            *((name, DType.F32, array.shape) for name, array in dense.items()),
        ],
        weight_arrays=iter(
            [*(_array(weights[value.name]) for value in graph.weights), *dense.values()]
        ),
        tokenizer_files=files,
        generation_defaults={"eos_token_id": 3},
        extra_files={
            "stages/traced.ir": print_graph(graph).encode(),
            "stages/constants.ir": print_graph(Graph("nothing", (), (), (), ())).encode(),
        },
    )
    write_artifact(path, contents)
    return read_artifact(path)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()


class Oracle:
    """The decoder by the interpreter: one sequence from the beginning, in its own fresh memory."""

    def __init__(self, dtype: DType = DType.F32, embedding: Embedding | None = None) -> None:
        self.graph = decoder(dtype, embedding)
        self.interpreter = Interpreter(self.graph, weights_of(self.graph))

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Logits f32[len(tokens), V], or rows f32[len(tokens), H]."""
        count = len(tokens)
        state = self.graph.inputs[-1].type
        sees = {"reaches": torch.full((count,), count, dtype=torch.int32)}
        (out,) = self.interpreter.run(
            {
                **(sees if any(one.name == "reaches" for one in self.graph.inputs) else {}),
                "token_ids": torch.tensor(tokens),
                "positions": torch.arange(count),
                "rows": torch.arange(count),
                "slots": torch.arange(count),
                "starts": torch.tensor([0, count], dtype=torch.int32),
                "lengths": torch.tensor([count], dtype=torch.int32),
                "tables": torch.arange(-(-count // 4), dtype=torch.int32)[None],
                "kv": PagedState.allocate(state, -(-count // 4), 4),
            }
        )
        return out.float().numpy()

    def logprobs(self, tokens: list[int]) -> np.ndarray:
        """Log-probabilities f64[len(tokens), V] of what follows each token."""
        logits = torch.tensor(self.logits(tokens), dtype=torch.float64)
        return torch.log_softmax(logits, -1).numpy()

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The most likely continuation, every token from the beginning."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]
