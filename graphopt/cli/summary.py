"""An artifact in plain data and in words: what it is, how large, and what runs in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .output import human_bytes, human_count

if TYPE_CHECKING:
    from graphopt.artifact import Artifact
    from graphopt.ledger import Entry
    from graphopt.plan import Plan, Step
    from graphopt.runtime.scheduler import SchedulerLimits

Rows = list[tuple[str, object]]
Parts = Sequence[tuple[str, int, str]]
# Sizes of a step at which the buffers are reported: one decode, and one chunk of a long prompt.
STEP_TOKENS = (1, 512)


def summarize(artifact: Artifact) -> dict[str, Any]:
    """The facts of an artifact as plain data; sizes in bytes."""
    plan, model = artifact.plan, artifact.model
    files = {name: int(row["bytes"]) for name, row in artifact.manifest["files"].items()}
    return {
        "path": str(artifact.path),
        "model": model.name,
        "architecture": model.architecture,
        "model_type": model.model_type,
        "parameters": model.parameters,
        "target": plan.target,
        "dtype": plan.dtype.torch_name,
        "max_model_len": plan.limits.max_model_len,
        "vocab_size": plan.limits.vocab_size,
        "block_size": plan.block_size,
        "kv_bytes_per_token": plan.state.bytes_per_token,
        "state": str(plan.state),
        "pieces": len(plan.pieces),
        "steps": sum(1 for _ in plan.steps()),
        "steps_per_backend": dict(Counter(step.backend for step in plan.steps()).most_common()),
        "kernels": len({step.kernel for step in plan.steps() if step.backend != "torch"}),
        "isas": [*artifact.kernels, *dict.fromkeys(artifact.launch_archs.values())],
        "buffer_bytes": {str(tokens): buffer_bytes(plan, tokens) for tokens in STEP_TOKENS},
        "captures": captures(artifact),
        "memory": memory(artifact),
        "weight_bytes": artifact.weight_bytes,
        "total_bytes": sum(files.values()),
        "tokenizer": artifact.tokenizer_dir is not None,
        "embedding": None if plan.embedding is None else plan.embedding.to_json(),
        "versions": dict(artifact.manifest["versions"]),
        "notes": list(model.notes),
        "files": files,
    }


def captures(artifact: Artifact) -> str | None:
    """What is captured of an artifact for a GPU, in a line; None for a CPU."""
    from graphopt.runtime.gpu_setup import is_for_gpu

    from .captures import captures_of, summary_line

    return summary_line(captures_of(artifact)) if is_for_gpu(artifact.plan) else None


def buffer_bytes(plan: Plan, tokens: int) -> int:
    """Bytes of the arena in a step of one sequence with ``tokens`` tokens and one row."""
    from graphopt.arena import layout

    blocks = -(-plan.limits.max_model_len // plan.block_size)
    return layout(plan, {"T": tokens, "S": 1, "R": 1, "P": blocks}).peak_bytes


def memory(artifact: Artifact) -> dict[str, Any]:
    """What serving takes by default; on a CPU what to change if it does not fit this machine."""
    from graphopt.errors import MachineError
    from graphopt.runtime.gpu_setup import is_for_gpu
    from graphopt.runtime.loading import engine_limits
    from graphopt.runtime.preflight import host_room, memory_need, preflight

    plan, weights, limits = artifact.plan, artifact.weight_bytes, engine_limits(artifact.plan)
    if is_for_gpu(plan):
        return {"parts": _parts(_gpu_rows(artifact, limits)), "advice": None}
    room = host_room()
    rows = memory_need(plan, weights, limits, room=room).rows()
    try:
        preflight(plan, weights, limits, room=room)
    except MachineError as error:
        advice = error.next
    else:
        advice = None
    return {"parts": _parts(rows), "advice": advice}


def _gpu_rows(artifact: Artifact, limits: SchedulerLimits) -> Parts:
    """The parts of what is taken of any GPU; how many KV blocks there are depends on the GPU."""
    from graphopt.runtime.capture_choice import launches_of
    from graphopt.runtime.preflight import memory_need
    from graphopt.runtime.preflight_gpu import gpu_room, gpu_step_bytes

    plan = artifact.plan
    step_bytes = gpu_step_bytes(plan, launches_of(artifact))
    need = memory_need(
        plan, artifact.weight_bytes, limits, room=gpu_room(0, 0), step_bytes=step_bytes
    )
    block = f"{plan.block_size} tokens; as many blocks as what is left holds"
    return [
        *need.parts()[:-1],
        ("without KV", need.total_bytes, ""),
        ("a KV block", plan.bytes_per_block, block),
    ]


def _parts(rows: Parts) -> list[dict[str, object]]:
    return [{"part": name, "bytes": nbytes, "for": purpose} for name, nbytes, purpose in rows]


def compile_rows(summary: Mapping[str, Any]) -> Rows:
    """What a user wants to know after compiling."""
    rows: Rows = [
        ("artifact", f"{summary['path']} ({human_bytes(summary['total_bytes'])})"),
        ("model", _model(summary)),
        ("target", f"{summary['target']}, computes in {summary['dtype']}"),
        *_vectors(summary),
        ("plan", _plan(summary)),
        ("kernels", _kernels(summary)),
        ("time", f"{summary['seconds']:.1f} s"),
    ]
    return rows + [("note", note) for note in summary["notes"]]


def inspect_rows(summary: Mapping[str, Any]) -> Rows:
    """What ``inspect`` prints."""
    kv = summary["kv_bytes_per_token"]
    context = kv * summary["max_model_len"]
    buffers = ", ".join(
        f"{human_bytes(size)} for a step of {tokens}"
        for tokens, size in summary["buffer_bytes"].items()
    )
    rows: Rows = [
        ("artifact", summary["path"]),
        ("model", _model(summary)),
        ("target", f"{summary['target']}, computes in {summary['dtype']}"),
        ("context", f"{summary['max_model_len']} tokens, vocabulary {summary['vocab_size']}"),
        *_vectors(summary),
        ("tokenizer", "yes" if summary["tokenizer"] else "no, prompts are token ids"),
        ("plan", _plan(summary)),
        ("kernels", _kernels(summary)),
        ("buffers", buffers),
        *([("captures", summary["captures"])] if summary["captures"] else []),
        ("memory", _memory(summary["memory"])),
        ("KV cache", f"{human_bytes(kv)} a token, {human_bytes(context)} a full context"),
        ("", f"{summary['state']}, {summary['block_size']} tokens a block"),
        ("made by", ", ".join(f"{name} {v}" for name, v in summary["versions"].items())),
    ]
    rows += [("note", note) for note in summary["notes"]]
    names = summary["files"]
    width = max((len(name) for name in names), default=0)
    listing = "\n".join(f"{name:<{width}}  {human_bytes(size):>10}" for name, size in names.items())
    return [*rows, ("size", human_bytes(summary["total_bytes"])), ("files", listing)]


def _model(summary: Mapping[str, Any]) -> str:
    parameters = human_count(summary["parameters"])
    return f"{summary['model']}, {summary['architecture']}, {parameters} parameters"


def _vectors(summary: Mapping[str, Any]) -> Rows:
    """What a text becomes; nothing for a model that generates."""
    found = summary["embedding"]
    if found is None:
        return []
    sizes = [found["size"], *(layer[3] for layer in found["dense"])]
    count = len(found["dense"])
    layers = f", {count} dense layer{'s' * (count > 1)}" if count else ""
    length = ", of length 1" if found["normalize"] else ""
    pooling = found["pooling"].replace("_", " ")
    return [("embeds", f"{sizes[-1]} numbers a text, rows pooled by {pooling}{layers}{length}")]


def _memory(memory: Mapping[str, Any]) -> str:
    parts = memory["parts"]
    sizes = [human_bytes(row["bytes"]) for row in parts]
    width, right = max(len(row["part"]) for row in parts), max(map(len, sizes))
    lines = [
        f"{row['part']:<{width}}  {size:>{right}}  {row['for']}".rstrip()
        for row, size in zip(parts, sizes, strict=True)
    ]
    return "\n".join(lines + ([f"does not fit: {memory['advice']}"] if memory["advice"] else []))


def _plan(summary: Mapping[str, Any]) -> str:
    steps = ", ".join(f"{n} by {name}" for name, n in summary["steps_per_backend"].items())
    pieces = "1 piece" if summary["pieces"] == 1 else f"{summary['pieces']} pieces"
    return f"{pieces}, {summary['steps']} steps ({steps})"


def _kernels(summary: Mapping[str, Any]) -> str:
    """How many kernels there are, for which instruction sets, and how long they took to compile."""
    if not summary["kernels"]:
        return "none, as PyTorch runs every step"
    took_ms = (summary.get("stages_ms") or {}).get("native")
    took = f", compiled in {took_ms / 1e3:.1f} s" if took_ms is not None else ""
    return f"{summary['kernels']} for {', '.join(summary['isas'])}{took}"


LEDGER_COLUMNS = ("rule", "where", "decision", "places", "saves", "reason")
EACH_COLUMNS = ("rule", "where", "decision", "saves", "reason")
TOTAL_COLUMNS = ("rule", "applied", "refused", "saves")


def chosen_entries(
    entries: Sequence[Entry], *, rule: str | None = None, refused: bool = False
) -> list[Entry]:
    """The decisions of one rule, or of all, and only what was refused, or all.

    Raises:
        UsageError: no rule of that name decided anything.
    """
    from graphopt.errors import UsageError

    rules = dict.fromkeys(entry.rule for entry in entries)
    if rule is not None and rule not in rules:
        raise UsageError(
            "no such rule in the ledger", got=rule, expected=", ".join(rules) or "an empty ledger"
        )
    return [
        entry
        for entry in entries
        if (rule is None or entry.rule == rule) and not (refused and entry.applied)
    ]


def ledger_json(entries: Sequence[Entry]) -> dict[str, Any]:
    """Decisions and what each rule decided, as plain data."""
    from graphopt.report.decisions import totals

    return {
        "ledger": [asdict(entry) for entry in entries],
        "ledger_totals": [asdict(total) for total in totals(entries)],
    }


def ledger_rows(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """The ledger with equal decisions in one row: how many, in which layers, for example why."""
    from graphopt.report.decisions import group_decisions

    return [
        (
            group.first.rule,
            group.where,
            _decision(group.first),
            len(group.entries),
            _saved(group.saves_bytes),
            group.first.reason,
        )
        for group in group_decisions(entries)
    ]


def each_row(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """The ledger with a row for each decision, in the order in which they were taken."""
    return [
        (
            entry.rule,
            entry.where,
            _decision(entry),
            _saved(entry.saves_bytes),
            f"{entry.reason}: {', '.join(entry.culprits)}" if entry.culprits else entry.reason,
        )
        for entry in entries
    ]


def total_rows(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """What each rule decided."""
    from graphopt.report.decisions import totals

    return [(t.rule, t.applied, t.refused, _saved(t.saves_bytes)) for t in totals(entries)]


def _decision(entry: Entry) -> str:
    return "applied" if entry.applied else "refused"


def _saved(count: int) -> str:
    return human_bytes(count) if count else ""


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan as text: each piece, its steps, and why it ends."""
    number = 0
    for piece in plan.pieces:
        mode = "may be captured" if piece.captured else "cannot be captured"
        yield f"piece {piece.name}, {mode}, {len(piece.steps)} steps"
        for step in piece.steps:
            yield f"  {number:>5}  {_step(step)}"
            number += 1
        if piece.cut:
            yield f"  cut: {piece.cut}"


def _step(step: Step) -> str:
    operands = ", ".join(_operand(operand) for operand in step.operands)
    results = ", ".join(f"b{slot}" for slot in step.results)
    frees = " frees " + " ".join(f"b{slot}" for slot in step.frees) if step.frees else ""
    scope = f"  // {step.scope}" if step.scope else ""
    arrow = f"{results} = " if results else ""
    return f"{step.backend:<6} {arrow}{step.kernel}({operands}){frees}{scope}"


def _operand(operand: int | str) -> str:
    return f"b{operand}" if isinstance(operand, int) else operand
