from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from graphopt.errors import TraceError
from graphopt.frontend.sizes import Sizes
from graphopt.ir.shape import Dim, dim_max, dim_min, sym

T = sym("T")


def symbolic() -> tuple[torch.SymInt, Sizes]:
    environment = ShapeEnv()
    fake = torch._subclasses.fake_tensor.FakeTensorMode(shape_env=environment)
    tensor = fake.from_tensor(
        torch.zeros(37),
        symbolic_context=torch.fx.experimental.symbolic_shapes.StatelessSymbolicContext(
            dynamic_sizes=[torch.fx.experimental.symbolic_shapes.DimDynamic.DYNAMIC]
        ),
    )
    size = tensor.shape[0]
    return size, Sizes({str(size.node.expr): "T"})


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda t: t, T),
        (lambda t: t * 3 + 2, T * 3 + 2),
        (lambda t: t * t - t, T * T - T),
        (lambda t: (t + 1) // 4, (T + 1) // 4),
        (lambda t: t % 8, T % 8),
        (lambda t: torch.sym_max(t, 5), dim_max(T, 5)),
        (lambda t: torch.sym_min(t * 2, 100), dim_min(T * 2, 100)),
        (lambda t: 12, 12),
    ],
)
def test_sizes_translate(compute, expected: Dim) -> None:
    size, sizes = symbolic()
    assert sizes.dim(compute(size)) == expected


def test_a_size_of_other_origin_is_refused() -> None:
    size, _ = symbolic()
    with pytest.raises(TraceError, match="values of tokens"):
        Sizes({}).dim(size)
    with pytest.raises(TraceError, match="not an integer"):
        Sizes({}).dim(1.5)
    with pytest.raises(TraceError, match="not an integer"):
        Sizes({}).dim(True)


def test_a_shape_translates() -> None:
    assert Sizes({}).shape(torch.zeros(2, 3)) == (2, 3)


def test_a_size_is_told_if_all_of_it_is() -> None:
    size, sizes = symbolic()
    assert sizes.tells(size)
    assert sizes.tells(size * 2 + 1)
    assert not sizes.tells(size - 100)
    assert not Sizes({}).tells(size)
    assert not Sizes({}).tells(size * 2)
