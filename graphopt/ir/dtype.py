"""Element types: their names in the text form, in PyTorch and in safetensors, and their sizes."""

from __future__ import annotations

import enum

from graphopt.errors import UnsupportedError


class DType(enum.Enum):
    """The type of one element. ``value`` is its name in the text form."""

    F64 = "f64"
    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    F8E4M3 = "f8e4m3"
    F8E5M2 = "f8e5m2"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    def __str__(self) -> str:
        return self.value

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return _ROWS[self][2]

    @property
    def is_float(self) -> bool:
        """Whether this is a floating-point type."""
        return self.value.startswith(("f", "bf"))

    @property
    def is_int(self) -> bool:
        """Whether this is an integer type; ``bool`` is not."""
        return self.value[0] in "iu"

    @property
    def torch_name(self) -> str:
        """The attribute of ``torch`` that is this type, such as ``bfloat16``."""
        return _ROWS[self][0]

    @property
    def safetensors(self) -> str:
        """The name in a safetensors header, such as ``BF16``."""
        return _ROWS[self][1]

    @classmethod
    def from_torch_name(cls, name: str) -> DType:
        """The type that PyTorch calls ``name`` (``bfloat16`` or ``torch.bfloat16``).

        Raises:
            UnsupportedError: PyTorch has the type, or you do, and graphopt does not.
        """
        found = _BY_TORCH_NAME.get(name.removeprefix("torch."))
        if found is None:
            raise UnsupportedError(
                "element type is not supported", got=name, expected=", ".join(_BY_TORCH_NAME)
            )
        return found

    @classmethod
    def from_safetensors(cls, name: str) -> DType:
        """The type that a safetensors header calls ``name``.

        Raises:
            UnsupportedError: graphopt has no such type.
        """
        found = _BY_SAFETENSORS.get(name)
        if found is None:
            raise UnsupportedError(
                "element type is not supported", got=name, expected=", ".join(_BY_SAFETENSORS)
            )
        return found


# PyTorch's name, safetensors' name, bytes.
_ROWS: dict[DType, tuple[str, str, int]] = {
    DType.F64: ("float64", "F64", 8),
    DType.F32: ("float32", "F32", 4),
    DType.BF16: ("bfloat16", "BF16", 2),
    DType.F16: ("float16", "F16", 2),
    DType.F8E4M3: ("float8_e4m3fn", "F8_E4M3", 1),
    DType.F8E5M2: ("float8_e5m2", "F8_E5M2", 1),
    DType.I64: ("int64", "I64", 8),
    DType.I32: ("int32", "I32", 4),
    DType.I16: ("int16", "I16", 2),
    DType.I8: ("int8", "I8", 1),
    DType.U8: ("uint8", "U8", 1),
    DType.BOOL: ("bool", "BOOL", 1),
}
_BY_TORCH_NAME = {row[0]: dtype for dtype, row in _ROWS.items()}
_BY_SAFETENSORS = {row[1]: dtype for dtype, row in _ROWS.items()}
