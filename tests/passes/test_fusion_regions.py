"""Which regions form, how often, and that every node is in exactly one."""

from collections import Counter

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.ops import is_view
from graphopt.ir.reference import prepare
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import StateType, TensorType, nbytes
from graphopt.passes.fusion_cost import CPU, CUDA
from graphopt.passes.fusion_regions import FUSIONS, fuse_regions, name_of
from graphopt.passes.manager import PassContext
from graphopt.region import Region, is_alias
from graphopt.stages import Lowered

from .models import lowered
from .numbers import random_values

T = sym("T")
# What forms how often, in a model of L layers: the count for each layer, and how many more.
FORMED = {
    "llama": {
        "embed": (0, 1),
        "mul+cos+sin": (0, 1),
        "rms_norm+linear": (1, 0),
        "rope+kv_write": (1, 0),
        "attention": (1, 0),
        "linear+add": (2, 0),
        "rms_norm+linear+glu": (1, 0),
        "index_select+rms_norm+linear": (0, 1),
    },
    "qwen3": {
        "embed": (0, 1),
        "mul+cos+sin": (0, 1),
        "rms_norm+linear": (1, 0),
        "rms_norm+rope+kv_write": (1, 0),
        "attention": (1, 0),
        "linear+add": (2, 0),
        "rms_norm+linear+glu": (1, 0),
        "index_select+rms_norm+linear": (0, 1),
    },
    "gemma3_text": {
        "embed": (0, 1),
        "mul+cos+sin+cos+sin": (0, 1),
        "rms_norm+linear": (1, 0),
        "rms_norm+rope+kv_write": (1, 0),
        "attention": (1, 0),
        "linear": (2, 0),
        "rms_norm+add": (2, 0),
        "rms_norm+linear+glu": (1, 0),
        "index_select+rms_norm+linear": (0, 1),
    },
    "gpt2": {
        "embed+add+layer_norm": (0, 1),
        "layer_norm": (2, -1),
        "linear": (1, 1),
        "kv_write": (1, 0),
        "attention": (1, 0),
        "linear+add": (2, 0),
        "linear+gelu": (1, 0),
        "index_select+layer_norm": (0, 1),
    },
}
# The same where norms stay apart from linear maps, as they do where a kernel has no prologue.
WITHOUT_PROLOGUES = {
    "llama": {"embed+rms_norm": (0, 1), "rms_norm": (2, -1), "index_select+rms_norm": (0, 1)},
    "qwen3": {"embed+rms_norm": (0, 1), "rms_norm": (2, -1), "index_select+rms_norm": (0, 1)},
    "gemma3_text": {
        "embed+rms_norm": (0, 1),
        "rms_norm+add+rms_norm": (2, -1),
        "index_select+rms_norm": (0, 1),
    },
    "gpt2": {"embed+add+layer_norm": (0, 1), "layer_norm": (2, -1)},
}
# And where linear maps have neither prologue nor epilogue.
BARE_LINEARS = {
    "llama": {"add+rms_norm": (2, -1), "glu": (1, 0), "embed+rms_norm": (0, 1)},
    "qwen3": {"add+rms_norm": (2, -1), "glu": (1, 0), "embed+rms_norm": (0, 1)},
    "gemma3_text": {"rms_norm+add+rms_norm": (2, -1), "glu": (1, 0), "embed+rms_norm": (0, 1)},
    "gpt2": {"add+layer_norm": (2, -1), "gelu": (1, 0), "embed+add+layer_norm": (0, 1)},
}


def counts(found: Lowered) -> Counter[str]:
    return Counter(region.name for region in found.regions)


def expected(table: dict[str, tuple[int, int]], found: Lowered) -> dict[str, int]:
    layers = len(found.graph.nodes_named("attention"))
    return {name: each * layers + more for name, (each, more) in table.items()}


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize("name", FORMED)
def test_regions_form_as_often_as_the_layers_say(name: str, target: str) -> None:
    found = lowered(name, target)
    assert counts(found) == expected(FORMED[name], found)


@pytest.mark.parametrize("name", FORMED)
def test_named_regions_without_prologues(name: str) -> None:
    found = lowered(name, disabled=frozenset({"fuse-prologue"}))
    wanted = expected(WITHOUT_PROLOGUES[name], found)
    assert {region: counts(found)[region] for region in wanted} == wanted


@pytest.mark.parametrize("name", FORMED)
def test_named_regions_around_bare_linear_maps(name: str) -> None:
    found = lowered(name, disabled=frozenset({"fuse-prologue", "fuse-epilogue"}))
    wanted = expected(BARE_LINEARS[name], found)
    assert {region: counts(found)[region] for region in wanted} == wanted


def test_the_last_region_of_gemma2_ends_in_the_softcap() -> None:
    assert counts(lowered("gemma2"))["index_select+rms_norm+linear+softcap"] == 1


@pytest.mark.parametrize("name", FORMED)
def test_every_region_has_a_kernel_family_on_a_gpu(name: str) -> None:
    assert {region.family for region in lowered(name).regions} <= {
        "pointwise",
        "row",
        "linear",
        "heads",
        "attention",
        "gather",
    }


def test_at_most_seven_regions_a_layer_in_llama() -> None:
    found = lowered("llama")
    layers = len(found.graph.nodes_named("attention"))
    scopes = [region for region in found.regions if ".layers." in region.scope]
    assert len(scopes) == 6 * layers


@pytest.mark.parametrize("name", FORMED)
def test_every_node_is_in_one_region_and_runs_after_what_it_reads(name: str) -> None:
    found = lowered(name)
    check_cover(found.graph, found.regions)


def check_cover(graph: Graph, regions: tuple[Region, ...]) -> None:
    """Every computing node once; every input made before; every output made inside."""
    computing = Counter(
        place
        for region in regions
        for place in region.nodes
        if not is_alias(graph, graph.nodes[place])
    )
    wanted = [p for p, node in enumerate(graph.nodes) if not is_alias(graph, node)]
    assert sorted(computing) == wanted
    assert set(computing.values()) <= {1}
    made = {*graph.inputs, *graph.weights}
    for region in regions:
        assert set(region.inputs) <= made, region.name
        made.update(region.outputs)
    assert set(graph.outputs) <= made


def run_regions(graph: Graph, regions: tuple[Region, ...], inputs, weights, env, stored=None):  # type: ignore[no-untyped-def]
    """Each region on its inputs alone, as a kernel would run; ``stored`` is done to its results."""
    memory = {value: inputs[value.name] for value in graph.inputs}
    memory.update((value, weights[value.name]) for value in graph.weights)
    for region in regions:
        inside = {value: memory[value] for value in region.inputs}
        for place in region.nodes:
            node = graph.nodes[place]
            results = prepare(node)([inside[value] for value in node.inputs], env)
            inside.update(zip(node.outputs, results, strict=True))
        for value in region.outputs:
            is_tensor = stored is not None and isinstance(value.type, TensorType)
            memory[value] = stored(inside[value]) if is_tensor else inside[value]
    return [memory[value] for value in graph.outputs]


@pytest.mark.parametrize("disabled", [(), *((name,) for name in FUSIONS)])
@pytest.mark.parametrize("model", [CPU, CUDA])
def test_regions_compute_what_the_graph_does(disabled, model) -> None:  # type: ignore[no-untyped-def]
    graph = mixture()
    regions = fuse_regions(graph, model, PassContext(), frozenset(disabled))
    check_cover(graph, regions)
    for tokens in (1, 5):
        inputs, weights = random_values(graph, tokens, tokens)
        wanted = Interpreter(graph, weights).run(inputs)
        found = run_regions(graph, regions, inputs, weights, {"T": tokens})
        assert all(a.equal(b) for a, b in zip(wanted, found, strict=True))


def mixture() -> Graph:
    """Norms, a gated unit, two siblings, a returned change of shape and something opaque."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 8)))
    v = b.weight("v", TensorType(DType.F32, (8,)))
    up, down = (b.weight(n, TensorType(DType.F32, s)) for n, s in (("u", (12, 8)), ("d", (8, 6))))
    normed = b.one("rms_norm", [x, v], {"eps": 1e-6})
    parts = b.node("split", [b.one("linear", [normed, up])], {"sizes": (6, 6), "dim": 1})
    gated = b.one("glu", [*parts], {"activation": "silu"})
    total = b.one("add", [b.one("linear", [gated, down]), x])
    first = b.one("rms_norm", [total, v], {"eps": 1e-6})
    second = b.one("softmax", [total], {"dim": 1})
    running = b.one("cumsum", [first], {"dim": 1})
    turned = b.one("permute", [b.one("mul", [running, second])], {"dims": (1, 0)})
    return b.finish([turned, b.one("sub", [first, second])])


def test_siblings_that_read_the_same_rows_join() -> None:
    context = PassContext()
    regions = fuse_regions(mixture(), CUDA, context)
    assert [region.name for region in regions] == [
        "rms_norm+linear+glu",
        "linear+add",
        "rms_norm+softmax+sub",
        "cumsum",
        "mul",
        "permute",
    ]


def test_a_norm_and_what_quantizes_its_rows_are_one_kernel() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (T, 64)))
    w = b.weight("w", TensorType(DType.BF16, (64,)))
    normed = b.one("cast", [b.one("rms_norm", [x, w], {"eps": 1e-6})], {"dtype": DType.F32})
    top = b.one("amax", [b.one("abs", [normed])], {"dims": (1,), "keepdim": True})
    scale = b.one("mul", [b.one("clamp", [top], {"min": 1e-6})], {"scalar": 1 / 127})
    scaled = b.one("round", [b.one("div", [normed, scale])])
    codes = b.one(
        "cast", [b.one("clamp", [scaled], {"min": -127, "max": 127})], {"dtype": DType.I8}
    )
    regions = fuse_regions(b.finish([codes, scale]), CUDA, PassContext())
    assert [region.family for region in regions] == ["row"]
    assert len(regions[0].outputs) == 2


def test_dequantizing_factors_are_an_epilogue() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (T, 64)))
    w = b.weight("w", TensorType(DType.BF16, (32, 64)))
    by_column = b.weight("s", TensorType(DType.BF16, (32,)))
    y = b.one("mul", [b.one("linear", [x, w]), by_column])
    (region,) = fuse_regions(b.finish([b.one("silu", [y])]), CUDA, PassContext())
    assert (region.family, region.name) == ("linear", "linear+mul+silu")


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("sizes", [(1, 1), (64, 64)])
def test_activations_move_once(name: str, sizes: tuple[int, int]) -> None:
    """Bytes that steps read and write in slots, against each region's results and operands once."""
    found = lowered(name)
    env = dict(zip("TS", sizes, strict=True)) | {"R": sizes[1], "P": 1}
    slots = [evaluate(slot.nbytes, env) for slot in found.memory.slots]
    moved = sum(
        slots[operand]
        for step in found.memory.steps
        for operand in (*step.operands, *step.results)
        if isinstance(operand, int)
    )
    least = sum(
        evaluate(nbytes(value.type), env)
        for region in found.regions
        for value in (*dict.fromkeys(region.inputs), *region.outputs)
        if not value.is_weight and not isinstance(value.type, StateType)
    )
    assert moved <= 1.15 * least


def test_names_leave_changes_of_shape_out() -> None:
    graph = mixture()
    assert name_of(graph.nodes[:4]) == "rms_norm+linear+glu"
    assert name_of(graph.nodes[2:3]) == "split"


def test_each_merge_is_a_decision() -> None:
    """Without fuel nothing merges, and each rewrite more is one region less."""
    graph = mixture()
    whole = PassContext()
    least = len(fuse_regions(graph, CUDA, whole))
    most = len(fuse_regions(graph, CUDA, PassContext(fuel=0)))
    assert most - least == whole.applied
    for fuel in range(whole.applied + 1):
        assert len(fuse_regions(graph, CUDA, PassContext(fuel=fuel))) == most - fuel
    rules = {entry.rule for entry in whole.ledger.entries}
    assert rules <= set(FUSIONS)
    assert all(entry.reason for entry in whole.ledger.entries)


def test_two_writes_may_share_what_makes_their_heads() -> None:
    found = lowered("diffllama")
    nodes = found.graph.nodes
    covered = Counter(place for region in found.regions for place in region.nodes)
    assert {place for place, node in enumerate(nodes) if not is_view(node.op)} <= covered.keys()
    assert all(covered[place] == 1 for place in covered if not is_view(nodes[place].op))
