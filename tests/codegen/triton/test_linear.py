"""Linear kernels: what they compute, what they refuse, and what they take of a GPU."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.linear import linear_kernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import Region, make_region
from tests.codegen.cpp import linear_cases
from tests.codegen.cpp.linear_cases import (
    AFTER,
    BEFORE,
    SOME_COLUMNS,
    WHOLE_ROWS,
    After,
    Before,
    linear_case,
)
from tests.passes.models import lowered

from .linear_shapes import KINDS, MODELS, shape_case

T, R = sym("T"), sym("R")
TOLERANCE = {DType.F32: 1e-5, DType.BF16: 1e-2, DType.F16: 2e-3}
FUSED = [after for after in AFTER if after not in WHOLE_ROWS]
# Families whose linear maps differ, and others where there is time.
SOME = ("llama",)
REST = [
    pytest.param(name, marks=pytest.mark.full)
    for name in [
        "gpt2",
        "gemma2",
        "gemma3",
        "qwen3",
        "mixtral",
        "qwen2_moe",
        "phi",
        "phi3",
        "gpt_oss",
        "deepseek_v3",
        "olmo2",
        "cohere",
        "granite",
        "stablelm",
        "falcon",
        "opt",
        "bloom",
        "mistral",
        "starcoder2",
        "gpt_neox",
    ]
]
ROWS = (1, 3, 17, 61, 83)


@cache
def case_of(before: Before, after: After, dtype: DType) -> tuple[Graph, Region, TritonKernel]:
    graph, region = linear_case(before, after, dtype)
    kernel = linear_kernel(graph, region)
    assert isinstance(kernel, TritonKernel), kernel
    return graph, region, kernel


def split_case(n: int, k: int, *, normed: bool = True) -> tuple[Graph, Region]:
    """A gated unit of rows long enough that K is split."""
    b = GraphBuilder("split")
    x = b.input("x", TensorType(DType.BF16, (T, k)))
    if normed:
        x = b.one("rms_norm", [x, b.weight("norm", TensorType(DType.BF16, (k,)))], {"eps": 1e-5})
    y = b.one("linear", [x, b.weight("w", TensorType(DType.BF16, (2 * n, k)))])
    halves = b.node("split", [y], {"dim": 1, "sizes": (n, n)})
    graph = b.finish([b.one("glu", halves, {"activation": "silu"})])
    return graph, make_region(graph, range(len(graph.nodes)), family="linear")


def summed_case(n: int, k: int) -> tuple[Graph, Region]:
    """What a residual adds to a product."""
    b = GraphBuilder("summed")
    x, y = (b.input(name, TensorType(DType.BF16, (T, size))) for name, size in (("x", k), ("y", n)))
    mapped = b.one("linear", [x, b.weight("w", TensorType(DType.BF16, (n, k)))])
    graph = b.finish([b.one("add", [y, mapped])])
    return graph, make_region(graph, range(len(graph.nodes)), family="linear")


def made(case: tuple[Graph, Region] | None, arch: int = 90) -> TritonKernel:
    assert case is not None
    kernel = linear_kernel(*case, arch=arch)
    assert isinstance(kernel, TritonKernel), kernel
    return kernel


class TestRefusals:
    @pytest.mark.parametrize("after", WHOLE_ROWS)
    def test_whole_rows(self, after: After) -> None:
        found = linear_kernel(*linear_case(BEFORE[0], after, DType.BF16))
        assert isinstance(found, Verdict)
        assert found.reason

    def test_a_norm_says_why(self) -> None:
        found = linear_kernel(*linear_case(BEFORE[0], linear_cases.normed, DType.BF16))
        assert isinstance(found, Verdict)
        assert found.reason == "its epilogue reduces whole rows of the product"

    def test_no_rows(self) -> None:
        b = GraphBuilder("still")
        x = b.input("x", TensorType(DType.BF16, (4, 32)))
        graph = b.finish([b.one("linear", [x, b.weight("w", TensorType(DType.BF16, (16, 32)))])])
        found = linear_kernel(graph, make_region(graph, [0], family="linear"))
        assert isinstance(found, Verdict)
        assert "rows" in found.reason

    def test_f64(self) -> None:
        found = linear_kernel(*linear_case(BEFORE[0], AFTER[0], DType.F64))
        assert isinstance(found, Verdict)
        assert "f64" in found.reason

    def test_another_product(self) -> None:
        found = linear_kernel(*linear_case(BEFORE[0], AFTER[0], DType.BF16, 8))
        assert isinstance(found, Verdict)


class TestText:
    def test_it_is_the_same_every_time(self) -> None:
        assert made(shape_case("qwen3-8b", "qkv")) == made(shape_case("qwen3-8b", "qkv"))

    def test_layers_share_a_kernel(self) -> None:
        names = {made(shape_case(name, "o")).name for name in ("qwen3-8b", "llama-3.1-8b")}
        assert len(names) == 1

    def test_descriptors_copy_what_lies_as_it_is(self) -> None:
        assert "x_blocks.load" in made(shape_case("qwen3-8b", "down")).text
        assert "w1_blocks.load" in made(shape_case("qwen3-8b", "gate_up")).text
        assert "descriptor" not in made(shape_case("qwen3-8b", "down"), 80).text

    def test_rows_of_many_are_made_ahead(self) -> None:
        """Where they do not lie in memory as they are: once for all columns."""
        last = made(shape_case("qwen3-8b", "qkv")).variants[-1]
        assert [one.function[-5:] for one in last.launches] == ["_rows", "_many"]
        assert len(made(shape_case("qwen3-8b", "down")).variants[-1].launches) == 1

    def test_odd_rows_have_no_descriptor(self) -> None:
        graph, region = linear_case(BEFORE[0], AFTER[0], DType.BF16)
        assert "descriptor" not in made((graph, region)).text

    def test_split_sums_have_room(self) -> None:
        kernel = made(split_case(64, 4096))
        assert kernel.pointers[-1] is None
        for variant in kernel.variants:
            if (split := variant.constants.get("SPLIT", 1)) > 1:
                tile = variant.constants["BLOCK_M"] * variant.constants["BLOCK_N"]
                blocks = variant.grid[0]
                assert isinstance(blocks, int)
                assert evaluate(kernel.workspace, {"T": 1}) >= 4 * blocks * (1 + split * 3 * tile)

    def test_variants_are_ordered(self) -> None:
        for kind in KINDS:
            bounds = [
                next(iter(one.below.values()), 1 << 30)
                for one in made(shape_case("qwen3-8b", kind)).variants
            ]
            assert bounds == sorted(bounds)


def chosen(few: bool) -> list[tuple[Before, After, DType]]:
    """All combinations, or each side and each type at least once."""
    every = list(product(BEFORE, FUSED, TOLERANCE))
    if not few:
        return every
    types = list(TOLERANCE)
    diagonal = [(BEFORE[n % 5], after, types[n % 3]) for n, after in enumerate(FUSED)]
    return [*diagonal, *((one, FUSED[6], DType.BF16) for one in BEFORE)]


def name_of(one: tuple[Before, After, DType]) -> str:
    """What a case is called."""
    before, after, dtype = one
    return f"{before.__name__}-{after.__name__}-{dtype}"


@pytest.mark.interpreted
class TestNumbers:
    @staticmethod
    def agrees(one: tuple[Before, After, DType], seed: int) -> None:
        from .linear_runs import check

        graph, region, kernel = case_of(*one)
        for rows in ROWS:
            env = {"T": rows, "R": rows}
            check(graph, region, kernel, env, TOLERANCE[one[2]], seed=seed)

    @pytest.mark.parametrize("one", chosen(few=True), ids=name_of)
    def test_some(self, one: tuple[Before, After, DType]) -> None:
        self.agrees(one, 1)

    @pytest.mark.full
    @pytest.mark.parametrize("one", chosen(few=False), ids=name_of)
    def test_every(self, one: tuple[Before, After, DType]) -> None:
        self.agrees(one, 2)

    @pytest.mark.parametrize("after", SOME_COLUMNS)
    def test_results_of_some_columns(self, after: After) -> None:
        self.agrees((BEFORE[0], after, DType.F32), 3)
        self.agrees((BEFORE[1], after, DType.BF16), 4)

    @pytest.mark.full
    @pytest.mark.parametrize("one", product(BEFORE, SOME_COLUMNS, TOLERANCE), ids=name_of)
    def test_every_result_of_some_columns(self, one: tuple[Before, After, DType]) -> None:
        self.agrees(one, 5)

    @pytest.mark.parametrize("normed", [True, False])
    @pytest.mark.parametrize("rows", [1, 7, 16, 33])
    def test_split_sums(self, rows: int, normed: bool) -> None:
        """Twice with the same workspace: counters are zero again."""
        from .linear_runs import Launch, check, operands_of

        case = split_case(48, 2048, normed=normed)
        kernel, env = made(case), {"T": rows}
        assert kernel.variant(env).constants["SPLIT"] > 1
        check(*case, kernel, env, 1e-2)
        launch, given = Launch(kernel, env), operands_of(case[0], env, 3)
        first, again = (launch.results(*case, kernel.variant(env), given, env)[0] for _ in range(2))
        assert first.equal(again)

    @pytest.mark.parametrize("arch", [80, 90])
    @pytest.mark.parametrize("rows", [65, 129])
    def test_many_rows(self, rows: int, arch: int) -> None:
        """Descriptors and pointers, tiles that do not end with the rows or the columns."""
        from .linear_runs import check

        for normed in (True, False):
            case = split_case(72, 96, normed=normed)
            kernel = made(case, arch)
            check(*case, kernel, {"T": rows}, 1e-2)

    @pytest.mark.parametrize("arch", [80, 90])
    @pytest.mark.parametrize(("rows", "width", "k"), [(65, 72, 2048), (129, 24, 1100)])
    def test_shared_tiles(self, rows: int, width: int, k: int, arch: int) -> None:
        """Parts of K, the last of them ragged; twice with the same workspace."""
        from .linear_runs import Launch, check, operands_of

        for normed in (True, False):
            case = split_case(width, k, normed=normed)
            kernel, env = made(case, arch), {"T": rows}
            variant = kernel.variant(env)
            assert variant.launches[-1].constants["SPLIT"] > 1
            check(*case, kernel, env, 1e-2)
            launch, given = Launch(kernel, env), operands_of(case[0], env, 3)
            first, again = (launch.results(*case, variant, given, env)[0] for _ in range(2))
            assert first.equal(again)

    def test_shared_tiles_of_one_product(self) -> None:
        from .linear_runs import check

        case, env = summed_case(48, 1152), {"T": 70}
        kernel = made(case)
        assert kernel.variant(env).launches[-1].constants["SPLIT"] > 1
        check(*case, kernel, env, 1e-2)

    @pytest.mark.parametrize("name", [*SOME, *REST])
    def test_families(self, name: str) -> None:
        """The linear maps of small decoders as their passes leave them."""
        from .linear_runs import alone, check

        for graph, region, kernel in region_kernels(name):
            for rows in (5, 67):
                env = dict.fromkeys(("T", "R", "S", "P"), rows)
                check(alone(graph, region), region, kernel, env, 1e-2, seed=rows)

    def test_large_rows_of_f16(self) -> None:
        """What is normed may be too large for the type before it is."""
        from .linear_runs import Launch, expected, operands_of

        graph, region, kernel = case_of(BEFORE[1], FUSED[0], DType.F16)
        env = {"T": 5, "R": 5}
        given = dict(operands_of(graph, env, 0))
        given["x"] = given["x"] * (3e4 / given["x"].float().abs().max()).half()
        given["norm.weight"] = given["norm.weight"].abs() + 8
        (want,) = expected(graph, given)
        (got,) = Launch(kernel, env).results(graph, region, kernel.variant(env), given, env)
        assert (got.float() - want).norm() <= 2e-3 * want.norm()


def region_kernels(name: str) -> list[tuple[Graph, Region, TritonKernel]]:
    """The distinct kernels of a small decoder's linear maps."""
    found = lowered(name)
    kernels = {}
    for region in found.regions:
        if region.family == "linear":
            kernel = made((found.graph, region))
            kernels[kernel.name] = (found.graph, region, kernel)
    return list(kernels.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SOME, *REST])
def test_every_family_has_kernels(name: str) -> None:
    assert region_kernels(name)


def router_case(hidden: int, experts: int) -> tuple[Graph, Region]:
    """A router's scores, and beside them the gate of a shared expert."""
    b = GraphBuilder("router")
    x = b.input("x", TensorType(DType.BF16, (T, hidden)))
    y = b.one("linear", [x, b.weight("w", TensorType(DType.BF16, (experts + 1, hidden)))])
    _, gate = b.node("split", [y], {"dim": 1, "sizes": (experts, 1)})
    graph = b.finish([y, b.one("sigmoid", [gate])])
    return graph, make_region(graph, range(len(graph.nodes)), family="linear")


@pytest.mark.full
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_resources_of_a_gate_beside_scores(arch: int) -> None:
    """The sizes of qwen2-moe; what writes the gate spills nothing."""
    from graphopt.codegen.triton.compile import compile_variant
    from graphopt.codegen.triton.resources import resources_of

    kernel = made(router_case(2048, 60), arch)
    for launch in kernel_launches(kernel):
        found = resources_of(compile_variant(kernel, launch, arch))
        assert found.problems() == [], (dict(launch.constants), found)
        assert found.has_tensor_cores, (dict(launch.constants), found)


def kernel_launches(kernel: TritonKernel) -> list[Variant]:
    return [one for variant in kernel.variants for one in variant.launches]


def gate(model: str, kind: str, arch: int) -> None:
    """All variants of a linear map of a model: what they take, and that nothing is wrong."""
    from graphopt.codegen.triton.compile import compile_variant
    from graphopt.codegen.triton.resources import resources_of

    case = shape_case(model, kind)
    if case is None:
        return
    kernel = made(case, arch)
    for launch in {repr(replace(one, below={})): one for one in kernel_launches(kernel)}.values():
        found = resources_of(compile_variant(kernel, launch, arch))
        where = (model, kind, arch, dict(launch.constants), found)
        assert found.problems() == [], where
        assert found.has_tensor_cores != launch.function.endswith("_rows"), where
        assert found.wide_loads or found.instructions["UTMALDG"], where
        if launch.function.endswith("_many") and arch == 90:
            assert found.has_wgmma, where
            assert found.instructions["UTMALDG"], where


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "arch"), [("gate_up", 90), ("down", 90), ("o", 80)])
def test_resources(kind: str, arch: int) -> None:
    gate("llama-3.2-1b", kind, arch)


@pytest.mark.full
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_all_resources(model: str, kind: str, arch: int) -> None:
    gate(model, kind, arch)
