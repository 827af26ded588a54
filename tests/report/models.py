"""Small compiled models for the report's tests, made by hand: no passes, no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.artifact import ModelInfo
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, SourceLocation, Value
from graphopt.ir.ops import is_view
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType, nbytes
from graphopt.ledger import Ledger, PassReport, accept, refuse
from graphopt.plan import BufferSlot, Limits, Piece, Plan, Step
from graphopt.region import make_region, state_root
from graphopt.report.source import ReportSource

T, R, S, P = (sym(name) for name in "TRSP")
BF16, I32, I64 = DType.BF16, DType.I32, DType.I64
HIDDEN, HEADS, SIZE, VOCAB = 8, 2, 4, 11
KEPT = LayerState(HEADS, SIZE, SIZE, BF16)


def tensor(*shape: object, dtype: DType = BF16) -> TensorType:
    return TensorType(dtype, shape)  # type: ignore[arg-type]


def decoder(layers: int = 2, *, file: str = "modeling_tiny.py", name: str = "tiny") -> Graph:
    """Embedding, layers of attention with its projection and residual, norm, head."""
    b = GraphBuilder(name)
    ids = b.input("token_ids", tensor(T, dtype=I64))
    rows = b.input("rows", tensor(R, dtype=I64))
    slots = b.input("slots", tensor(T, dtype=I64))
    starts = b.input("starts", tensor(S + 1, dtype=I32))
    lengths = b.input("lengths", tensor(S, dtype=I32))
    tables = b.input("tables", tensor(S, P, dtype=I32))
    state: Value = b.input("kv", StateType("kv", (KEPT,) * layers))

    def at(line: int, module: str) -> SourceLocation:
        return SourceLocation(file, line, module)

    table = b.weight("model.embed_tokens.weight", tensor(VOCAB, HIDDEN))
    x = b.one("embed", [ids, table], loc=at(3, "model.embed_tokens"))
    for layer in range(layers):
        home = f"model.layers.{layer}"
        norm = b.weight(f"{home}.norm.weight", tensor(HIDDEN))
        y = b.one("rms_norm", [x, norm], {"eps": 1e-5}, loc=at(5, f"{home}.norm"))
        weight = b.weight(f"{home}.self_attn.q_proj.weight", tensor(HIDDEN, HIDDEN))
        q = b.one("linear", [y, weight], loc=at(7, f"{home}.self_attn.q_proj"))
        attn = at(8, f"{home}.self_attn")
        heads = b.one("reshape", [q], {"shape": (T, HEADS, SIZE)}, loc=attn)
        state = b.one("kv_write", [state, heads, heads, slots], {"layer": layer}, loc=attn)
        z = b.one(
            "attention",
            [heads, state, starts, lengths, tables],
            {"layer": layer, "scale": 0.5},
            loc=attn,
        )
        flat = b.one("reshape", [z], {"shape": (T, HIDDEN)}, loc=attn)
        x = b.one("add", [x, flat], loc=at(9, home))
    last = b.one("index_select", [x, rows], {"dim": 0}, loc=at(11, "model"))
    head = b.weight("lm_head.weight", tensor(VOCAB, HIDDEN))
    return b.finish([b.one("linear", [last, head], loc=at(12, "lm_head"))])


def fused_positions(graph: Graph) -> list[list[int]]:
    """Regions: each node with the views that it reads through."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    makers = graph.producers
    runs = []
    for number, node in enumerate(graph.nodes):
        if not is_view(node.op):
            read = [makers[value] for value in dict.fromkeys(node.inputs) if value in makers]
            runs.append([*(place[maker] for maker in read if is_view(maker.op)), number])
    return runs


def plan_of(graph: Graph, runs: Sequence[Sequence[int]], target: str = "cpu") -> Plan:
    """A plan with a slot for every value, and a piece for each attention and between them."""
    slots: list[BufferSlot] = []
    slot_of: dict[Value, int] = {}

    def allocate(value: Value, step: int) -> int:
        slot_of[value] = len(slots)
        slots.append(BufferSlot(nbytes(value.type), str(value), step, len(runs) - 1))
        return slot_of[value]

    inputs = {v.name: allocate(v, 0) for v in graph.inputs if not isinstance(v.type, StateType)}
    steps = []
    for number, positions in enumerate(runs):
        region = make_region(graph, positions)
        operands = tuple(
            str(state_root(graph, v))
            if isinstance(v.type, StateType)
            else str(v)
            if v.is_weight
            else slot_of[v]
            for v in region.inputs
        )
        made = [value for value in region.outputs if not isinstance(value.type, StateType)]
        results = tuple(allocate(value, number) for value in made)
        steps.append(
            Step(
                "torch", region.name, tuple(positions), operands, results, (),
                region.scope, region.name,
            )
        )  # fmt: skip
    pieces: list[Piece] = []
    for step in steps:
        alone = "attention" in step.kernel
        if alone or not pieces or not pieces[-1].captured:
            cut = f"{step.scope}: attention depends on lengths" if alone else ""
            pieces.append(Piece(f"p{len(pieces)}", (step,), not alone, cut, step.kernel))
        else:
            old = pieces[-1]
            pieces[-1] = Piece(old.name, (*old.steps, step), True, old.cut, old.body)
    state = next(v.type for v in graph.inputs if isinstance(v.type, StateType))
    return Plan(
        graph.name, target, BF16, 16, state, Limits(128, VOCAB, 8), inputs,
        slot_of[graph.outputs[0]], tuple(slots), tuple(pieces),
    )  # fmt: skip


def compiled(
    graph: Graph, *, name: str = "tiny", target: str = "cpu", kernel: str = "void kernel() {}"
) -> ReportSource:
    """A report's source with decisions at every linear map, and the source of its kernels."""
    ledger = Ledger()
    for number, node in enumerate(graph.nodes_named("linear")):
        where = f"{node.output} {node.loc.module if node.loc else ''}"
        if number % 2:
            ledger.record("fuse", where, refuse("its input is read twice", node.inputs[0]))
        else:
            ledger.record("fuse", where, accept("they share an input", saves_bytes=64))
    runs = fused_positions(graph)
    return ReportSource(
        plan_of(graph, runs, target),
        graph,
        graph,
        ledger,
        ModelInfo(name, "TinyForCausalLM", "tiny", 1234, ("a note",)),
        (PassReport("clean", True, 3, 0.01, len(graph.nodes) + 3, len(graph.nodes), 900, 800),),
        {"graphopt": "0.1.0"},
        {"linear": kernel},
    )


def two_layers() -> ReportSource:
    return compiled(decoder(2))
