"""What is compiled does what it did: numbers, types, layouts, shared memory, writes, errors."""

from __future__ import annotations

import copy
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

import graphopt
from graphopt.errors import UnsupportedError, UsageError


@pytest.fixture(autouse=True)
def _fresh(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    caplog.set_level(logging.INFO, logger="graphopt")


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def recompiled(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "compiled again" in r.getMessage()]


def copied(arguments: Any) -> Any:
    """The arguments in new memory, those that share some sharing it still."""
    memories: dict[int, Any] = {}

    def one(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        storage = item.untyped_storage()
        memory = memories.setdefault(storage._cdata, storage.clone())
        empty = torch.empty(0, dtype=item.dtype)
        return empty.set_(memory, item.storage_offset(), item.shape, item.stride())

    return pytree.tree_map(one, arguments)


def sharing(items: list[Any]) -> list[tuple[int, int, int]]:
    """Which tensors share memory, and how far apart they begin."""
    tensors = [t for t in items if isinstance(t, Tensor) and t.numel()]
    return [
        (i, j, a.data_ptr() - b.data_ptr())
        for i, a in enumerate(tensors)
        for j, b in enumerate(tensors[:i])
        if a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    ]


def agrees(
    function: Callable[..., Any], *calls: tuple[Any, ...], compiled: Any = None, tol: float = 1e-5
) -> None:
    """Calls both with each tuple of arguments and compares everything a caller can see."""
    compiled = graphopt.compile(function) if compiled is None else compiled
    for call in calls:
        mine, theirs = copied(call), copied(call)
        with torch.no_grad():
            expected, got = function(*mine), compiled(*theirs)
        left, spec = pytree.tree_flatten((expected, mine))
        right, other = pytree.tree_flatten((got, theirs))
        assert spec == other
        for a, b in zip(left, right, strict=True):
            if not isinstance(a, Tensor):
                assert type(a) is type(b)
                assert a == b
                continue
            assert a.dtype == b.dtype
            torch.testing.assert_close(b, a, rtol=tol, atol=tol, equal_nan=True)
            wide = [dim for dim in range(a.ndim) if a.shape[dim] > 1]
            assert not a.numel() or all(a.stride(dim) == b.stride(dim) for dim in wide)
        assert sharing(left) == sharing(right)


def rows(*sizes: int) -> list[tuple[Tensor]]:
    return [(torch.randn(size, 4),) for size in sizes]


# -- models ----------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, hidden: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.gated = heads, True
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out, self.up = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.gate, self.down = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.first, self.second = nn.LayerNorm(hidden), nn.RMSNorm(hidden)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("table", torch.randn(64, hidden))

    def forward(self, x: Tensor, *, at: int = 0) -> Tensor:
        rows, tokens, hidden = x.shape
        y = self.first(x) + self.table[at : at + tokens]
        parts = (t.view(rows, tokens, self.heads, -1) for t in self.qkv(y).chunk(3, -1))
        q, k, v = (t.transpose(1, 2) for t in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(rows, tokens, hidden)))
        y = self.second(x)
        if self.gated:
            return x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return x + self.down(self.up(y))


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2)
        return self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1)).log_softmax(-1)


class Memory(nn.Module):
    """Keeps rows in a buffer, and counts in another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(16, 4))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor, at: int) -> tuple[Tensor, Tensor]:
        self.kept[at : at + x.shape[0]] = x
        self.calls += 1
        return self.kept[: at + x.shape[0]].sum(0), self.kept


def test_a_transformer_block_of_any_size(caplog: pytest.LogCaptureFixture) -> None:
    block = Block().eval()
    compiled = graphopt.compile(block)
    calls = [(torch.randn(rows, 5, 8),) for rows in (3, 2, 7, 13)]
    agrees(block, *calls, compiled=compiled, tol=1e-4)
    assert not recompiled(caplog)
    agrees(block, (torch.randn(1, 5, 8),), compiled=compiled, tol=1e-4)
    assert len(recompiled(caplog)) == 1
    assert not warned(caplog)


def test_what_changed_since_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    block = Block().eval()
    compiled = graphopt.compile(block)
    call = (torch.randn(3, 5, 8),)
    agrees(block, call, compiled=compiled, tol=1e-4)
    block.load_state_dict({k: torch.randn_like(v) / 4 for k, v in block.state_dict().items()})
    agrees(block, call, compiled=compiled, tol=1e-4)
    block.up = nn.Linear(8, 16)
    block.table = torch.randn(64, 8)
    agrees(block, call, compiled=compiled, tol=1e-4)
    block.gated = False
    agrees(block, call, compiled=compiled, tol=1e-4)
    assert "gated" in recompiled(caplog)[-1]
    agrees(block.bfloat16(), (call[0].bfloat16(),), compiled=compiled, tol=5e-2)
    assert not warned(caplog)


def test_hooks_that_come_and_go_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    compiled, call = graphopt.compile(block), (torch.randn(3, 8),)
    agrees(block, call, compiled=compiled)
    inner = block[0].register_forward_hook(lambda module, given, made: made + 1)
    agrees(block, call, compiled=compiled)
    block[0].register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    agrees(block, call, compiled=compiled)
    outer = block.register_forward_hook(lambda module, given, made: made * 3)
    agrees(block, call, compiled=compiled)
    outer.remove()
    agrees(block, call, compiled=compiled)
    inner.remove()
    agrees(block, call, compiled=compiled)
    assert not warned(caplog)


def test_convolutions_keep_pytorchs_operators(caplog: pytest.LogCaptureFixture) -> None:
    picture = Picture().eval()
    agrees(picture, (torch.randn(3, 3, 9, 9),), (torch.randn(2, 3, 9, 9),), tol=1e-4)
    with torch.no_grad():
        explained = graphopt.explain(picture, torch.randn(2, 3, 9, 9))
    (graph,) = explained.graphs
    assert "aten.conv2d.default" in dict(graph.operators)
    assert not warned(caplog)


def test_buffers_that_a_module_writes(caplog: pytest.LogCaptureFixture) -> None:
    eager, written = Memory(), Memory()
    compiled = graphopt.compile(written)
    for at, count in ((0, 2), (2, 3), (5, 2), (7, 4)):
        x = torch.randn(count, 4)
        with torch.no_grad():
            expected, got = eager(x, at), compiled(x, at)
        torch.testing.assert_close(got, expected)
        assert got[1].data_ptr() == written.kept.data_ptr()
        assert torch.equal(written.calls, eager.calls)
    assert not warned(caplog)


def test_a_number_is_a_size_whatever_was_traced_before(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch may not have found out that it is not negative."""
    monkeypatch.setattr("graphopt.frontend.function._never_negative", lambda size: False)
    eager, written = Memory(), Memory()
    compiled = graphopt.compile(written)
    for at, count in ((3, 2), (2, 3), (5, 2)):
        x = torch.randn(count, 4)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, at), eager(x, at))
    assert not warned(caplog)
    with torch.no_grad():  # the graph was for sizes, so another one is asked for
        x = torch.randn(2, 4)
        torch.testing.assert_close(compiled(x, -4), eager(x, -4))


def test_running_statistics_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    eager = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    trained = copy.deepcopy(eager)
    compiled = graphopt.compile(trained)
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(5, 4)
            torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(trained[1].running_var, eager[1].running_var)
    assert "statistics" in warned(caplog)[0]


# -- functions -------------------------------------------------------------------------------------


def _swap(a: Tensor, b: Tensor) -> None:
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


def _before_the_write(x: Tensor) -> Tensor:
    y = x[0].clone()
    x.add_(1)
    return y


def _views(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    return x[1:], x.t(), x, y, y[0], y.view(-1), x.contiguous(), y


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    x[1:, ::2] += 1
    x[:, 0] = 7
    x[x > 1] = 0
    return x.sum(), x[0]


def _kinds(x: Tensor) -> tuple[object, ...]:
    result = {"sum": x.sum(), "some": [(x > 0).any(), x.argmax(-1), x.shape[0], None]}
    return result, 5, 2.5, "text", True, torch.arange(x.shape[0]), x.to(torch.bfloat16)


def _twins(x: Tensor) -> tuple[Tensor, ...]:
    return torch.relu(x), torch.relu(x), x.clone(), x.float(), x.double()


def _both(a: Tensor, b: Tensor) -> Tensor:
    a.add_(1)
    b.mul_(2)
    return a + b


def _dropped(x: Tensor) -> Tensor:
    y = functional.dropout(x, 0.5, False)
    y.add_(1)
    return x


BASE = torch.randn(8, 4)


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (_swap, [(torch.randn(3, 4), torch.randn(3, 4))]),
        (_before_the_write, rows(3, 5)),
        (_views, rows(3, 5)),
        (_parts, [(torch.randn(4, 6).t(),)]),
        (_parts, rows(3, 5)),
        (_kinds, rows(3, 5, 1)),
        (_twins, rows(3, 5)),
        (_both, [(torch.randn(3, 4), torch.randn(3, 4)), (BASE[:3], BASE[1:4]), (BASE, BASE)]),
        (_dropped, rows(3)),
        (torch.sin, [(torch.tensor(2.0),), (torch.zeros(0, 3),)]),
        (lambda i: (i / 2, i // 2, i + 0.5, i.float()), [(torch.arange(6).view(2, 3),)]),
        (lambda x: x.cpu().to("cpu", torch.float64), rows(3)),
        (lambda x: (x.new_zeros(2, x.shape[0]), torch.full_like(x, 3)), rows(3, 5)),
    ],
)
def test_functions_are_compiled_and_agree(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    agrees(function, *calls)
    assert not warned(caplog)


@pytest.mark.parametrize(
    ("function", "calls", "reason"),
    [
        (lambda x: x.view(torch.int32)[1:], rows(3), "another type"),
        (lambda x: torch.fft.rfft(x).abs(), rows(3), "complex"),
        (lambda x: torch.vmap(torch.sin)(x), rows(3), "torch.func"),
        (lambda x: torch._foreach_add_([x], 1), rows(3), "several"),
    ],
)
def test_what_cannot_be_imported_runs_as_it_was_captured(
    function: Callable[..., Any],
    calls: list[tuple[Any, ...]],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agrees(function, *calls, *calls)
    (message,) = warned(caplog)  # once, not in every call
    assert reason in message


def test_numbers_that_vary(caplog: pytest.LogCaptureFixture) -> None:
    def scaled(x: Tensor, n: int, s: float, negate: bool) -> Tensor:
        y = x * n + s
        return -y if negate else y

    x = torch.randn(3, 4)
    agrees(scaled, (x, 2, 0.5, True), (x, 3, 0.7, True), (x, -4, 1.9, True), (x, 5, 0.1, False))
    assert not warned(caplog)
    assert recompiled(caplog)


def test_chance_is_pytorchs_own() -> None:
    compiled = graphopt.compile(lambda x: x + torch.rand(4))
    torch.manual_seed(7)
    got = compiled(torch.zeros(4))
    torch.manual_seed(7)
    assert torch.equal(got, torch.rand(4))


def test_an_index_out_of_range_is_an_error() -> None:
    compiled = graphopt.compile(lambda x, i: x[i])
    x = torch.randn(3, 4)
    assert torch.equal(compiled(x, torch.tensor([0, -1])), x[[0, -1]])
    with pytest.raises(IndexError):
        compiled(x, torch.tensor([0, 7]))


def test_an_assertion_holds_or_raises() -> None:
    def checked(x: Tensor) -> Tensor:
        torch._assert_async((x > 0).all())
        return x * 2

    agrees(checked, (torch.ones(3),))
    with pytest.raises(RuntimeError):
        graphopt.compile(checked)(-torch.ones(3))


@pytest.mark.parametrize("inside", [False, True])
def test_autocast(inside: bool) -> None:
    def cast(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=inside or torch.is_autocast_enabled("cpu")):
            y = functional.linear(x, x)
        return y, y.softmax(-1)

    compiled = graphopt.compile(cast)
    x = torch.randn(3, 4)
    for outside in (True, False):
        with torch.no_grad(), torch.autocast("cpu", enabled=outside):
            expected, got = cast(x), compiled(x)
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda t: t[1:],
    lambda t: t[0],
    lambda t: t[..., 1::2],
    lambda t: t.transpose(0, -1),
    lambda t: t.reshape(-1),
    lambda t: t.contiguous(),
    lambda t: t.unsqueeze(0),
    lambda t: t.chunk(2, -1)[1],
    lambda t: t.detach(),
    lambda t: t.flatten(),
    lambda t: t.expand(2, *t.shape),
)
PURE: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda t: t * 2,
    lambda t: t.clone(),
    lambda t: t.sum(-1, keepdim=True),
    lambda t: t.flip(0),
)
WRITES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda t, u: t.add_(1),
    lambda t, u: t.copy_(u),
    lambda t, u: t.sub_(u, alpha=2),
    lambda t, u: t.masked_fill_(t > 0, 7),
    lambda t, u: t[..., 0].zero_(),
)


def a_program(seed: int) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Views, copies and writes of two tensors in any order."""
    choose = random.Random(seed)
    kinds: tuple[Any, ...] = (VIEWS, VIEWS, PURE, WRITES, WRITES)
    steps = [
        (choose.choice(choose.choice(kinds)), choose.randrange(n), choose.randrange(n))
        for n in range(2, choose.randint(4, 8))
    ]
    outputs = [choose.randrange(len(steps) + 2) for _ in range(3)]

    def program(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        pool = [a, b]
        for step, i, j in steps:
            pool.append(step(pool[i], pool[j]) if step in WRITES else step(pool[i]))
        return tuple(pool[output] for output in outputs)

    return program


def programs_agree(seeds: range) -> int:
    """How many programs PyTorch takes; each of them must agree."""
    count = 0
    for seed in seeds:
        torch.manual_seed(seed)
        program, base = a_program(seed), torch.randn(7, 4)
        calls = [(torch.randn(4, 4), torch.randn(4, 4)), (base[:4], base[3:])]
        taken = []
        for call in calls:
            try:
                program(*copied(call))
                taken.append(call)
            except (RuntimeError, IndexError):
                continue  # it writes what may not be written, or has shapes that do not fit
        torch._dynamo.reset()
        agrees(program, *taken)
        count += bool(taken)
    return count


def test_programs_of_views_and_writes_agree() -> None:
    assert programs_agree(range(16)) > 6


@pytest.mark.slow
def test_many_programs_of_views_and_writes_agree() -> None:
    assert programs_agree(range(100, 250)) > 80


# -- the decorator ---------------------------------------------------------------------------------


@graphopt.compile
class Decorated(nn.Module):
    """Its documentation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        """Forward's documentation."""
        return functional.relu(self.linear(x)) * factor


class Derived(Decorated):
    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        return super().forward(x, factor) + 1


def test_a_class_stays_the_class_it_is(caplog: pytest.LogCaptureFixture) -> None:
    assert Decorated.__name__ == "Decorated"
    assert Decorated.__doc__ == "Its documentation."
    assert Decorated.forward.__name__ == "forward"
    assert Decorated.forward.__doc__ == "Forward's documentation."
    x = torch.randn(3, 4)
    with torch.no_grad():
        for module in [Decorated() for _ in range(12)]:
            torch.testing.assert_close(module(x), functional.relu(module.linear(x)))
        assert not recompiled(caplog)  # one graph for all of them
        derived = Derived()
        torch.testing.assert_close(derived(x), functional.relu(derived.linear(x)) + 1)
        clone = copy.deepcopy(derived)
        torch.testing.assert_close(graphopt.compile(clone)(x), derived(x))


class Plain:
    factor = 3

    @graphopt.compile
    def method(self, x: Tensor) -> Tensor:
        return x * self.factor

    @graphopt.compile(dynamic=True, fullgraph=True)
    def with_options(self, x: Tensor) -> Tensor:
        return x - self.factor

    @graphopt.compile
    @staticmethod
    def static(x: Tensor) -> Tensor:
        return x + 1

    def __call__(self, x: Tensor) -> Tensor:
        return x / self.factor


def test_methods_and_other_callables() -> None:
    plain, x = Plain(), torch.randn(3, 4)
    assert torch.equal(plain.method(x), x * 3)
    plain.factor = 5
    assert torch.equal(plain.method(x), x * 5)
    assert torch.equal(plain.with_options(x), x - 5)
    assert torch.equal(Plain.static(x), x + 1)
    assert torch.equal(graphopt.compile(plain)(x), x / 5)
    assert torch.equal(graphopt.compile(torch.relu)(x), x.relu())


def test_compiled_once_and_inside_one_another() -> None:
    inner = graphopt.compile(lambda x: x.sin())
    assert graphopt.compile(inner) is inner
    outer = graphopt.compile(lambda x: inner(x) + 1)
    x = torch.randn(3, 4)
    torch.testing.assert_close(outer(x), x.sin() + 1)
    explained = graphopt.explain(outer, x)
    assert dict(explained.graphs[0].operators) == {"sin": 1, "add": 1}


def test_threads_share_what_is_compiled() -> None:
    def product(x: Tensor, n: int) -> Tensor:
        return (x @ x.t()).softmax(-1) * n

    compiled = graphopt.compile(product)
    calls = [(torch.randn(2 + i % 5, 4), i % 3) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for (x, n), got in zip(calls, pool.map(lambda c: compiled(*c), calls), strict=True):
            torch.testing.assert_close(got, product(x, n))


def test_training_is_refused_and_inference_is_not() -> None:
    compiled, x = graphopt.compile(nn.Linear(4, 4)), torch.randn(3, 4)
    with pytest.raises(UnsupportedError, match="no_grad"):
        compiled(x)
    with torch.no_grad():
        assert not compiled(x).requires_grad
    with torch.inference_mode():
        assert compiled(x).is_inference()
    with pytest.raises(UnsupportedError, match="training"):
        compiled(x)


def test_tensors_elsewhere_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="meta"):
        graphopt.compile(lambda x: x + 1)(torch.zeros(3, device="meta"))


@pytest.mark.parametrize("target", [3, "text", int])
def test_what_cannot_be_compiled_is_refused(target: Any) -> None:
    with pytest.raises(UsageError):
        graphopt.compile(target)


def test_an_explanation_says_what_was_made_and_what_broke() -> None:
    def broken(x: Tensor) -> Tensor:
        y = x + 1
        print(end="")
        return y.sin() + torch.rand(1)

    explained = graphopt.explain(broken, torch.randn(3, 4))
    first, second = explained.graphs
    assert dict(first.operators) == {"add": 1}
    assert "add" in first.text
    assert "print" in first.ended
    assert "random" in second.fallback
    assert len(explained.breaks) == 1
    refused = [entry for entry in explained.ledger.entries if not entry.applied]
    assert any("random" in entry.reason for entry in refused)
    for part in ("2 graphs", "1 graph break;", "compiled: 1 add", "print", "random"):
        assert part in str(explained)


def test_importing_graphopt_imports_no_torch() -> None:
    program = "import graphopt, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
