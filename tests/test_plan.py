"""A plan written as JSON is read back as the same plan."""

import json
from dataclasses import replace

import pytest

from graphopt.errors import ArtifactError
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType
from graphopt.packing import Layout
from graphopt.plan import BufferSlot, Limits, Piece, Plan, Step
from graphopt.quantization import quant_of


def small_plan() -> Plan:
    """Two steps in two pieces over two slots."""
    tokens = sym("T")
    state = StateType(
        "kv",
        (LayerState(2, 8, 4, DType.BF16), LayerState(1, 8, 8, DType.F32, window=5)),
    )
    first = Step("torch", "embed", (0,), (0, "@table"), (1,), (0,), "model.embed")
    second = Step(
        "torch", "attention", (1, 2), (1, "%kv"), (2,), (1,), "model.layers.0", workspace=tokens * 2
    )
    return Plan(
        name="tiny",
        target="cpu",
        dtype=DType.BF16,
        block_size=16,
        state=state,
        limits=Limits(128, 50, 32),
        inputs={"token_ids": 0},
        output=2,
        slots=(
            BufferSlot(tokens * 8, "%token_ids"),
            BufferSlot(tokens * 16 + 3, "%0", 0, 1),
            BufferSlot(4, "%1", 1, 1),
        ),
        pieces=(
            Piece("p0", (first,), True, "because"),
            Piece("p1", (second,), False, ""),
        ),
    )


def test_json_round_trip() -> None:
    plan = small_plan()
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_bytes_per_block() -> None:
    # layer 0: 2 heads x (8 + 4) x 2 bytes; layer 1: 1 head x (8 + 8) x 4 bytes; 16 slots a block.
    assert small_plan().bytes_per_block == 16 * (2 * 12 * 2 + 1 * 16 * 4)


def test_steps_and_backends() -> None:
    plan = small_plan()
    assert [step.kernel for step in plan.steps()] == ["embed", "attention"]
    assert plan.backends() == {"torch"}


def test_another_schema_is_refused() -> None:
    data = small_plan().to_json() | {"schema": 99}
    with pytest.raises(ArtifactError, match="schema"):
        Plan.from_json(data)


@pytest.mark.parametrize("field", ["slots", "pieces", "state", "limits", "dtype"])
def test_missing_and_wrong_fields_are_refused(field: str) -> None:
    data = small_plan().to_json()
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json({name: value for name, value in data.items() if name != field})
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data | {field: 3.5})


@pytest.mark.parametrize("data", [None, 5, "x", []])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)  # type: ignore[arg-type]


WRONG = (None, True, -1, 2.5, [None], {"a": None}, 10**30)


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("field", ["name", "target", "block_size", "inputs", "output", "slots"])
def test_values_of_the_wrong_kind_are_refused(field: str, value: object) -> None:
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(small_plan().to_json() | {field: value})


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize(
    "field",
    ["backend", "kernel", "nodes", "operands", "results", "frees", "scope", "name", "workspace"],
)
def test_steps_of_the_wrong_kind_are_refused(field: str, value: object) -> None:
    data = small_plan().to_json()
    data["pieces"][1]["steps"][0][field] = value
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)


@pytest.mark.parametrize(
    ("field", "value"), [("operands", ["x"]), ("results", [3]), ("frees", [3])]
)
def test_steps_use_only_slots_that_there_are(field: str, value: object) -> None:
    data = small_plan().to_json()
    data["pieces"][1]["steps"][0][field] = value
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)


@pytest.mark.parametrize("value", [*WRONG, 2, "0"])
@pytest.mark.parametrize("field", ["first", "last"])
def test_slots_live_while_the_plan_runs(field: str, value: object) -> None:
    data = small_plan().to_json()
    data["slots"][1][field] = value
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)


def test_slots_do_not_die_before_they_are_written() -> None:
    data = small_plan().to_json()
    data["slots"][1] |= {"first": 1, "last": 0}
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)


@pytest.mark.parametrize("value", [*WRONG, "T +", "T // 0", "(" * 1000, 16])
@pytest.mark.parametrize("field", ["nbytes", "workspace"])
def test_sizes_are_expressions(field: str, value: object) -> None:
    data = small_plan().to_json()
    place = data["slots"][1] if field == "nbytes" else data["pieces"][0]["steps"][0]
    place[field] = value
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)


@pytest.mark.parametrize("value", [*WRONG, 0])
def test_limits_and_sizes_are_positive(value: object) -> None:
    plan = small_plan().to_json()
    for name in plan["limits"]:
        with pytest.raises(ArtifactError, match="not readable"):
            Plan.from_json(plan | {"limits": {**plan["limits"], name: value}})
    layers = [[value, 8, 4, "bf16", 0]]
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(plan | {"state": {"kind": "kv", "layers": layers}})
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(plan | {"block_size": value})


def packed_plan() -> Plan:
    layouts = {
        "table": Layout.whole(50, 7),
        "gate.up": Layout(8, 6, ((0, 8, 2), (1, 8, 2)), quant=quant_of(4), scales="gate.scales"),
        "experts": Layout.whole(5, 3, batch=4, transposed=True),
    }
    return replace(small_plan(), layouts=layouts, scratch_bytes=192)


def test_layouts_and_scratch_round_trip() -> None:
    plan = packed_plan()
    read = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert read == plan
    assert read.layouts == packed_plan().layouts


def test_whether_a_plan_is_deterministic_is_kept() -> None:
    plan = replace(small_plan(), deterministic=True)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for value in (None, 1, "yes"):
        with pytest.raises(ArtifactError, match="not readable"):
            Plan.from_json(plan.to_json() | {"deterministic": value})


def test_layouts_are_those_of_the_target() -> None:
    packing = GpuPacking.whole(64, 96, 4, 32)
    layouts = {"up": packing, "up.scales": packing.scales}
    plan = replace(small_plan(), target="cuda:sm_90", layouts=layouts)
    written = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(written) == plan
    for wrong in (written | {"target": "cpu"}, packed_plan().to_json() | {"target": "cuda:sm_90"}):
        with pytest.raises(ArtifactError, match="not readable"):
            Plan.from_json(wrong)


@pytest.mark.parametrize("value", [*WRONG, "64", 1, 100])
def test_scratch_is_whole_lines(value: object) -> None:
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(packed_plan().to_json() | {"scratch_bytes": value})


@pytest.mark.parametrize("value", [None, 3, "x", [], {"table": None}, {"table": {}}])
def test_layouts_are_objects(value: object) -> None:
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(packed_plan().to_json() | {"layouts": value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("rows", "columns", "batch") for value in (*WRONG, 0, "7")),
        *(("rows", value) for value in (49, 51, 2**31, 2**62)),
        *(("parts", value) for value in (None, 3, [], [[0, 50]], [[0, 50, 0]], [[0, 50, -1]])),
        *(("parts", value) for value in ([[0, 51, 1]], [[-1, 50, 1]], [[0, 25, 1]], [[0, 50, 2]])),
        ("parts", [[0, 30, 1], [20, 50, 1]]),
        ("parts", [[0, 50, 2], [0, 50, 2]]),
        ("parts", [[0, 50, 2], [1, 50, 3], [3, 50, 6]]),
        *(("quant", value) for value in (3, "int8", [], {"bits": 8}, {"bits": 3, "group": 64})),
        *(("quant", {"bits": bits, "group": 2**40}) for bits in (4, 8)),
        *(("transposed", value) for value in (None, 0, "no")),
        *(("scales", value) for value in (None, 0, [])),
    ],
)
def test_layouts_that_make_no_sense_are_refused(field: str, value: object) -> None:
    data = packed_plan().to_json()
    data["layouts"]["table"] |= {field: value}
    with pytest.raises(ArtifactError, match="not readable"):
        Plan.from_json(data)


def test_a_layout_of_very_many_rows_takes_no_memory() -> None:
    rows = 2**40
    layout = Layout(rows, 1, ((0, rows, 2), (1, rows, 2)))
    assert Layout.from_json(layout.to_json()) == layout
