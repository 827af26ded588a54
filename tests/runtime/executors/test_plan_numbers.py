"""Executors of every kind say the same of one plan."""

from __future__ import annotations

from dataclasses import replace

from graphopt.embedding import Embedding
from graphopt.runtime.executor import Executor
from graphopt.runtime.executors.cpp import CppExecutor
from graphopt.runtime.executors.plan_numbers import PlanNumbers
from graphopt.runtime.executors.torch import TorchExecutor
from tests.test_plan import small_plan


def test_numbers_are_the_plans() -> None:
    plan = small_plan()
    numbers = PlanNumbers(plan)
    assert numbers.block_size == plan.block_size
    assert numbers.bytes_per_block == plan.bytes_per_block
    assert (numbers.vocab_size, numbers.max_rows) == (plan.limits.vocab_size, plan.limits.max_rows)
    assert numbers.embedding is None
    embedding = Embedding(8, "mean", True, True)
    assert PlanNumbers(replace(plan, embedding=embedding)).embedding == embedding


def test_executors_have_them_from_one_place() -> None:
    names = [name for name, kind in vars(Executor).items() if isinstance(kind, property)]
    assert len(names) == 5
    for kind in (CppExecutor, TorchExecutor):
        assert issubclass(kind, PlanNumbers)
        assert not vars(kind).keys() & set(names)
