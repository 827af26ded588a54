"""The promise that a request gets the same bits in any batch, and who can keep it.

What is promised for an artifact that passes :func:`demand_deterministic`: tokens and
log-probabilities of a request, with a seed or greedy, or the vector of a text, are bit for bit the
same alone and in any batch, whatever else runs, however its prompt is cut into chunks, preempted or
not, and for any number of threads, on the same kind of machine with the same artifact.

Kernels in C++ keep it always: what a row adds up, and in which order, follows from the row's own
position. On a GPU tiles are chosen by the sizes of a step, and long sequences are split by what
else is in it, unless the artifact was compiled with ``--deterministic``. PyTorch promises nothing.
"""

from __future__ import annotations

from graphopt.errors import UsageError
from graphopt.plan import CPP, Plan


def why_not_deterministic(plan: Plan) -> str:
    """What of a plan depends on the batch that a request is in; empty if nothing does."""
    steps = dict.fromkeys(
        step.name or step.kernel for step in plan.steps() if step.backend == "torch"
    )
    if steps:
        return f"PyTorch runs {', '.join(steps)}"
    if plan.backends() != {CPP} and not plan.deterministic:
        return f"its kernels for {plan.target} are chosen by how many tokens a step has"
    return ""


def demand_deterministic(plan: Plan) -> None:
    """Demand that a request gets the same bits in any batch.

    Raises:
        UsageError: it may not; what depends on the batch is named.
    """
    if why_not := why_not_deterministic(plan):
        raise UsageError(
            "this artifact cannot run with deterministic",
            where=plan.name,
            got=why_not,
            expected="kernels of which a row's result depends on its own sequence alone",
            next="compile the checkpoint with --deterministic"
            + (", and without what PyTorch has to run" if "PyTorch" in why_not else ""),
        )
