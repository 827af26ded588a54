"""Layers of random graphs, written out: rightly, or with one thing changed that matters."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import Dim
from graphopt.passes.typed import shape_of

from .random_parts import NARROW, Parts, whole


@dataclass(frozen=True)
class Spelling:
    """How something is written out; ``wrong`` names the thing that is changed, if any is."""

    casts: bool
    wrong: str = ""


class Spellings(Parts):
    """Norms, activations, soft caps and rotations."""

    def normed(self, x: Value) -> Value:
        """A norm of x."""
        size = whole(shape_of(x)[-1])
        if self.maybe(0.3):
            if self.maybe():
                more = [self.weight(size)] if self.maybe(0.8) else []
                cast = self.rng.choice(("before", "after"))
                return self.make("rms_norm", x, *more, eps=1e-5, cast=cast)
            bias = self.maybe()
            parameters = [self.weight(size) for _ in range(1 + bias)]
            return self.make("layer_norm", x, *parameters, eps=1e-5, has_weight=True, has_bias=bias)
        wrong = self.rng.choice(
            ("axis", "sum", "eps", "other", "shared", "operands", "wide", "keepdim", "count")
        )
        return self.spelled_norm(x, Spelling(self.maybe(0.7), wrong if self.maybe(0.4) else ""))

    def spelled_norm(self, x: Value, how: Spelling) -> Value:
        """A norm that is written out."""
        rank, size, dtype = len(shape_of(x)), whole(shape_of(x)[-1]), self.dtype
        wide = DType.F32
        if how.wrong == "wide":
            wide = self.rng.choice((DType.F64, *NARROW))
        axes = (0,) if how.wrong == "axis" else (rank - 1,)
        a = self.cast(x, wide) if how.casts else x
        if self.maybe(0.4):
            a = self.make("sub", a, self.make("mean", a, dims=axes, keepdim=True))
        squared = self.make("mul", a, a) if self.maybe() else self.make("pow", a, scalar=2.0)
        if how.wrong == "other":
            other = self.cast(self.main, wide) if how.casts else self.main
            same = shape_of(other) == shape_of(x)
            squared = self.make("mul", other if same else self.make("tanh", a), a)
            squared = self.make("abs", squared)
        if how.wrong in ("sum", "count") or self.maybe(0.2):
            moment = self.make("sum", squared, dims=axes, keepdim=True)
            if how.wrong != "sum":
                count = size + 1 if how.wrong == "count" else size
                moment = self.make("div", moment, scalar=float(count))
        elif how.wrong == "keepdim" and set(shape_of(x)[:-1]) <= {1, size} and rank <= 2:
            moment = self.make("mean", squared, dims=axes, keepdim=False)
        else:
            moment = self.make("mean", squared, dims=axes, keepdim=True)
        y = self._over_root(a, moment, how)
        if how.wrong == "shared":
            self.keep(self.cast(y, dtype) if how.casts else y)
        return self._weighed(y, size, how)

    def _over_root(self, a: Value, moment: Value, how: Spelling) -> Value:
        if how.wrong == "eps":
            root = self.make("add", self.make("sqrt", moment), scalar=1e-2)
            return self.make("div", a, root)
        if how.wrong == "operands":
            root = self.make("rsqrt", self.make("add", moment, scalar=0.1))
            return self.make("mul", a, self.make("mul", root, moment))
        sure = self.make("add", moment, scalar=self.rng.choice((1e-5, 1e-6, 1e-2)))
        kind = self.rng.randrange(4)
        if kind == 0:
            return self.make("div", a, self.make("sqrt", sure))
        if kind == 1:
            return self.make("mul", self.make("pow", sure, scalar=-0.5), a)
        return self.make("mul", a, self.make("rsqrt", sure))

    def _weighed(self, y: Value, size: int, how: Spelling) -> Value:
        """With a weight before or after the cast back, an offset to it, a bias, or none."""
        weight = self.weight(*((size,) if self.maybe(0.9) else (1, size)))
        kind = self.rng.randrange(5)
        if kind == 0 and how.casts:  # widened with what it multiplies
            weight = self.cast(weight, self.dtype_of(y))
            if self.maybe():
                weight = self.make("add", weight, scalar=1.0)
            return self.cast(self.make("mul", y, weight), self.dtype)
        y = self.cast(y, self.dtype) if how.casts else y
        if kind == 1:
            return y
        if kind == 2:
            weight = self.make("add", weight, scalar=1.0)
        y = self.make("mul", weight, y) if self.maybe() else self.make("mul", y, weight)
        return self.make("add", y, self.weight(size)) if kind == 3 else y

    def activated(self, x: Value) -> Value:
        """An activation of x; computed in another type now and then."""
        original = x
        casts = self.maybe(0.3)
        if casts:
            kinds = [d for d in (DType.F32, DType.F32, DType.F64, *NARROW, DType.I32)]
            x = self.cast(x, self.rng.choice(kinds))
        if self.dtype_of(x) is DType.I32:
            y = self.make("relu", x)
        else:
            y = self.rng.choice((self._plain, self._silu, self._gelu, self._gelu, self.capped))(x)
        return self.cast(y, self.dtype_of(original)) if casts else y

    def _plain(self, x: Value) -> Value:
        op = self.rng.choice(("silu", "gelu", "relu", "sigmoid", "tanh", "relu2"))
        if op == "relu2":
            y = self.make("relu", x)
            return self.make("pow", y, scalar=2.0) if self.maybe() else self.make("mul", y, y)
        if op == "gelu":
            return self.make("gelu", x, approximate=self.rng.choice(("none", "tanh")))
        return self.make(op, x)

    def _silu(self, x: Value) -> Value:
        inner = self.make("mul", x, scalar=1.702) if self.maybe(0.3) else x
        if self.maybe():
            return self.make("mul", x, self.make("sigmoid", inner))
        one = self.rng.choice((1.0, 1.0, 2.0))
        inner = self.make("tanh", inner) if self.maybe(0.3) else inner
        grown = self.make("exp", self.make("neg", inner))
        return self.make("div", x, self.make("add", grown, scalar=one))

    def _gelu(self, x: Value) -> Value:
        """GELU by tanh or erf, its constants off now and then."""

        def off(number: float) -> float:
            return number * (1.01 if self.maybe(0.1) else 1.0)

        if self.maybe(0.3):
            curve = self.make("erf", self.make("mul", x, scalar=off(0.7071067811865476)))
        else:
            cube = self.make("pow", x, scalar=3.0)
            if self.maybe(0.3):
                cube = self.make("mul", self.make("mul", x, x), x)
            inner = self.make("add", x, self.make("mul", cube, scalar=off(0.044715)))
            curve = self.make("tanh", self.make("mul", inner, scalar=off(0.7978845608028654)))
        raised = self.make("add", curve, scalar=1.0)
        if self.maybe():
            return self.make("mul", self.make("mul", x, scalar=off(0.5)), raised)
        return self.make("mul", self.make("mul", x, raised), scalar=off(0.5))

    def capped(self, x: Value) -> Value:
        """A soft cap, of another size on the way back now and then."""
        cap = self.rng.choice((30.0, 5.0, 1.5))
        inner = self.make("div", x, scalar=cap)
        if self.maybe(0.3):
            inner = self.make("mul", x, scalar=1 / cap)
        back = cap * 1.5 if self.maybe(0.2) else cap
        return self.make("mul", self.make("tanh", inner), scalar=back)

    def rotated(self, x: Value) -> Value:
        """x[rows, heads, size], turned."""
        size, dtype = whole(shape_of(x)[-1]), self.dtype_of(x)
        if self.maybe(0.2):
            cos, sin = self.table("single", size)
            return self.make("rope", x, cos, sin, interleaved=self.maybe())
        turned_first = self.maybe()
        shape: tuple[Dim, ...] = (self.rows, 1, -1)
        if turned_first:
            x, shape = self.make("permute", x, dims=(1, 0, 2)), (1, self.rows, -1)
        way = self.rng.choice(("half", "half", "pairs", "halves", "interleaved"))
        table = {"half": "half", "pairs": "pairs"}.get(way, "single")
        cos, sin = (
            self.make(
                "reshape", self.cast(one, dtype), shape=(*shape[:2], whole(shape_of(one)[-1]))
            )
            for one in self.table(table, size)
        )
        if self.maybe(0.1):
            cos, sin = sin, cos
        pairs = way in ("pairs", "interleaved")
        if way in ("half", "pairs"):
            y = self.make(
                "add", self.make("mul", x, cos), self.make("mul", self.turned(x, pairs), sin)
            )
        else:
            a, b = self.halves(x, pairs)
            low = self.make("sub", self.make("mul", a, cos), self.make("mul", b, sin))
            op = "sub" if self.maybe(0.1) else "add"
            high = self.make(op, self.make("mul", b, cos), self.make("mul", a, sin))
            y = self.joined(low, high, pairs if self.maybe(0.8) else not pairs)
        return self.make("permute", y, dims=(1, 0, 2)) if turned_first else y

    def table(self, kind: str, size: int) -> tuple[Value, Value]:
        """Cosines and sines in float32; each angle twice unless ``kind`` is single."""
        key = (kind, size, self.maybe(0.1))
        if key not in self.tables:
            at = self.cast(self.make("reshape", self.positions, shape=(self.rows, 1)), DType.F32)
            angles = self.make("mul", at, self.weight(size // 2, dtype=DType.F32))
            if kind == "half":
                angles = self.make("concat", angles, angles, dim=1)
            elif kind == "pairs":
                angles = self.make("repeat_interleave", angles, repeats=2, dim=1)
            cos, sin = self.make("cos", angles), self.make("sin", angles)
            if key[2]:
                cos, sin = (self.make("mul", one, scalar=0.7) for one in (cos, sin))
            self.tables[key] = cos, sin
        return self.tables[key]

    def turned(self, x: Value, pairs: bool) -> Value:
        """(-second, first) of x's halves; a sign may be elsewhere, or missing."""
        first, second = self.halves(x, pairs)
        kind = self.rng.randrange(10)
        if kind == 0:
            return self.joined(second, self.make("neg", first), pairs)
        if kind == 1:
            return self.joined(second, first, pairs)
        if kind == 2:
            first, second = second, first
        return self.joined(self.make("neg", second), first, pairs)
