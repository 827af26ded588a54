"""What a user may choose when compiling, in one place and checked once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from graphopt.errors import UnsupportedError, UsageError
from graphopt.target import GPU_ARCHS, Target

# What a model is compiled for: to say what comes next, or to turn a text into a vector.
GENERATE, EMBED = "generate", "embed"
TASKS = ("auto", GENERATE, EMBED)
# How the rows of a text become a vector; ``graphopt.embedding`` says what each means.
POOLINGS = ("auto", "mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean")
QUANTIZE = ("int8", "int4", "w8a8", "fp8", "fp8-tensor")
KV_DTYPES = ("auto", "fp8", "fp8-e5m2")
# The first GPUs whose tensor cores multiply fp8.
_FP8_ARCH = 89
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Choices that change the artifact; every field is a factor of its cache key.

    Attributes:
        target: what to compile for.
        dtype: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the checkpoint's own.
        max_model_len: longest context in tokens; None for the model's own limit.
        block_size: KV slots in a block, a positive number.
        quantize: ``int8`` or ``int4`` to round weights to nearest, in groups with a scale each;
            ``w8a8`` to multiply rows of 8 bits with weights of 8 bits on a GPU too, which a CPU
            does anyway; ``fp8`` for weights and rows of f8e4m3 with a scale for 128 by 128 of a
            weight, ``fp8-tensor`` with one for all of it; None to keep them.
        isa: ``host`` for the best instruction set that this CPU has, or the target's; ``all`` to
            ship to other machines.
        allow_unproven: compile a model whose agreement with transformers could not be tested.
        score: expression that replaces the scores of all attention; empty for none. Made by
            ``graphopt.attention``, as is ``mask``.
        mask: expression that says which keys a query sees of those that the model lets it see.
        disabled_passes: names of passes and fusions to leave out, in alphabetical order.
        pass_fuel: rewrites after which passes stop; None for no end.
        deterministic: make kernels of which a request gets the same bits in any batch. Those for a
            CPU always do.
        dependent_launch: make kernels that begin while the one before them ends, on GPUs from
            sm_90 on.
        kv_dtype: ``auto`` to keep keys and values as the model computes them, ``fp8`` or
            ``fp8-e5m2`` to keep them in half the bytes on a GPU.
        pooling: how the rows of a text become a vector, one of ``POOLINGS``; ``auto`` for what the
            checkpoint says.
        normalize: whether vectors get length 1; None for what the checkpoint says.
        task: ``generate``, ``embed``, or ``auto`` for what the checkpoint is made for.
    """

    target: Target = field(default_factory=lambda: Target("cpu"))
    dtype: str = "auto"
    max_model_len: int | None = None
    block_size: int = 16
    quantize: str | None = None
    isa: str = "host"
    allow_unproven: bool = False
    score: str = ""
    mask: str = ""
    disabled_passes: tuple[str, ...] = ()
    pass_fuel: int | None = None
    deterministic: bool = False
    dependent_launch: bool = False
    task: str = "auto"
    kv_dtype: str = "auto"
    pooling: str = "auto"
    normalize: bool | None = None

    def factors(self) -> dict[str, str]:
        """Every field as text, by name."""
        return {one.name: _text(getattr(self, one.name)) for one in fields(self)}

    def check(self) -> None:
        """Refuse what makes no sense or does not exist yet.

        Raises:
            UsageError: a value is out of range.
            UnsupportedError: a value is sensible but not supported.
        """
        if self.task not in TASKS:
            raise UsageError("unknown task", got=self.task, expected=", ".join(TASKS))
        if self.pooling not in POOLINGS:
            raise UsageError("unknown pooling", got=self.pooling, expected=", ".join(POOLINGS))
        if self.dtype not in ("auto", *COMPUTE_DTYPES):
            raise UsageError(
                "unknown dtype", got=self.dtype, expected=", ".join(("auto", *COMPUTE_DTYPES))
            )
        if self.max_model_len is not None and self.max_model_len < 1:
            raise UsageError("max_model_len must be positive", got=self.max_model_len)
        if not 1 <= self.block_size <= 1024:
            raise UsageError("block_size is out of range", got=self.block_size, expected="1..1024")
        if self.isa not in ("host", "all"):
            raise UsageError(
                "unknown choice of instruction sets",
                got=self.isa,
                expected="host or all",
                next="name one by the target, such as --target cpu:avx2",
            )
        if self.pass_fuel is not None and self.pass_fuel < 0:
            raise UsageError("pass_fuel must not be negative", got=self.pass_fuel)
        if self.quantize is not None and self.quantize not in QUANTIZE:
            raise UsageError(
                "unknown way to quantize", got=self.quantize, expected=", ".join(QUANTIZE)
            )
        if self.target.kind == "cuda":
            self._check_gpu()
        if self.kv_dtype not in KV_DTYPES:
            raise UsageError(
                "unknown way to keep keys and values",
                got=self.kv_dtype,
                expected=", ".join(KV_DTYPES),
            )
        if (self.quantize or "").startswith("fp8"):
            self._check_fp8("products in fp8 are computed", str(self.quantize), "int8", "w8a8")
        if self.kv_dtype != "auto":
            self._check_fp8("keys and values in fp8 are read", self.kv_dtype, "auto", "auto")
        if self.dependent_launch and not self._has_dependent_launch():
            raise UsageError(
                "kernels begin while the one before them ends from sm_90 on",
                got=f"dependent_launch for {self.target}",
                next="leave it out",
            )

    def _check_fp8(self, what: str, got: str, on_cpu: str, on_gpu: str) -> None:
        """Refuse fp8 where nothing computes in it; the last two are what to ask for instead."""
        if self.target.kind != "cuda":
            raise UnsupportedError(
                f"{what} on a GPU only",
                got=f"{got} for {self.target}",
                next=f"ask for {on_cpu} on a CPU",
            )
        if self._gpu() < _FP8_ARCH:
            raise UnsupportedError(
                f"{what} from sm_{_FP8_ARCH} on",
                got=f"{got} for sm_{self._gpu()}",
                next=f"ask for {on_gpu} on older GPUs",
            )

    def _has_dependent_launch(self) -> bool:
        return self.target.kind == "cuda" and self._gpu() >= 90

    def _gpu(self) -> int:
        """The number of a GPU's architecture, such as 90."""
        return int(self.target.arch.removeprefix("sm_"))

    def _check_gpu(self) -> None:
        archs = ", ".join(GPU_ARCHS)
        if not self.target.arch:
            raise UsageError(
                "kernels for a GPU are compiled for its architecture",
                got=str(self.target),
                expected=f"cuda:sm_NN with one of {archs}",
                next="name one, such as --target cuda:sm_90 for an H100 or H200",
            )
        if self.target.arch not in GPU_ARCHS:
            raise UnsupportedError(f"there are no kernels for {self.target.arch}", expected=archs)
        if self.isa != "host":
            raise UsageError(
                "instruction sets are those of CPUs", got=f"{self.target} and isa {self.isa}"
            )


def _text(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
