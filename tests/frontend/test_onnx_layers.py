from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.frontend.onnx_layers import LAYERS
from tests.frontend.onnx_models import agree, imported, model, normal, run

W3 = {"w": normal(4, 3, 3, 2, seed=2), "b": normal(4, seed=3)}
NORM = {"g": normal(3, seed=4), "b": normal(3, seed=5)}
CHANNELS = {**NORM, "mu": normal(3, seed=6), "va": np.abs(normal(3, seed=7)) + np.float32(0.5)}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "MatMul": ("y = MatMul(x, w)", {"w": normal(7, 5)}),
    "MatMul of two": ("t = Transpose<perm = [0, 1, 3, 2]>(x) y = MatMul(x, t)", {}),
    "MatMul with a vector": ("y = MatMul(x, w)", {"w": normal(7)}),
    "Gemm": ("y = Gemm(m, w, b)", {"w": normal(6, 5), "b": normal(5)}),
    "Gemm all ways": (
        "t = Transpose(m) y = Gemm<transA = 1, transB = 1, alpha = 0.5, beta = 2.0>(t, w, b)",
        {"w": normal(5, 6), "b": normal(5)},
    ),
    "Gemm without bias": ("y = Gemm<transB = 1>(m, w)", {"w": normal(5, 6)}),
    "Gemm with a table": ("y = Gemm(m, w, b)", {"w": normal(6, 5), "b": normal(1, 5)}),
    "Einsum": ('y = Einsum<equation = "nchw, dc -> nhwd">(x, w)', {"w": normal(5, 3)}),
    "Conv": ("y = Conv<strides = [2, 1], pads = [1, 0, 1, 0], dilations = [1, 2]>(x, w, b)", W3),
    "Conv uneven": ("y = Conv<pads = [0, 1, 1, 2]>(x, w)", W3),
    "Conv same": ('y = Conv<auto_pad = "SAME_UPPER">(x, w)', W3),
    "Conv valid": ('y = Conv<auto_pad = "VALID">(x, w)', W3),
    "Conv in groups": ("y = Conv<group = 3>(x, w)", {"w": normal(6, 1, 2, 2)}),
    "Conv in one dimension": ("y = Conv<pads = [1, 1]>(l, w, b)", {
        "w": normal(4, 6, 3), "b": normal(4)
    }),
    "ConvTranspose": (
        "y = ConvTranspose<strides = [2, 2], pads = [1, 0, 1, 0], output_padding = [1, 0]>"
        "(x, w, b)",
        {"w": normal(3, 4, 3, 2), "b": normal(4)},
    ),
    "MaxPool": ("y = MaxPool<kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0]>(x)", {}),
    "AveragePool": ("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)", {}),
    "AveragePool with its padding": (
        "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)", {}
    ),
    "GlobalAveragePool": ("y = GlobalAveragePool(x)", {}),
    "GlobalMaxPool": ("y = GlobalMaxPool(x)", {}),
    "BatchNormalization": ("y = BatchNormalization(x, g, b, mu, va)", CHANNELS),
    "InstanceNormalization": ("y = InstanceNormalization(x, g, b)", NORM),
    "LayerNormalization": ("y = LayerNormalization<axis = -2>(x, g, b)", {
        "g": normal(5, 7), "b": normal(5, 7)
    }),
    "LayerNormalization with one scale": ("y = LayerNormalization(x, g)", {"g": normal(1)}),
    "Resize": ("""y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
        nearest_mode = "floor">(x, , s)""", {"s": np.array([1, 1, 2, 3], np.float32)}),
    "Resize linear": ("""y = Resize<mode = "linear",
        coordinate_transformation_mode = "half_pixel">(x, , s)""", {
        "s": np.array([1, 1, 2, 3], np.float32)
    }),
}  # fmt: skip
NEW: dict[str, tuple[str, dict[str, Any]]] = {
    "RMSNormalization": ("y = RMSNormalization<epsilon = 0.001>(x, g)", {"g": normal(7)}),
    "RMSNormalization over two": ("y = RMSNormalization<axis = -2>(x, g)", {"g": normal(5, 7)}),
    "GroupNormalization": ("y = GroupNormalization<num_groups = 3>(x, g, b)", NORM),
    "RotaryEmbedding": ("y = RotaryEmbedding(h, c, s, i)", {
        "c": normal(9, 4), "s": normal(9, 4)
    }),
    "RotaryEmbedding of flat heads": (
        "y = RotaryEmbedding<num_heads = 2, rotary_embedding_dim = 4, interleaved = 1>(f, c, s)",
        {"c": normal(2, 4, 2), "s": normal(2, 4, 2)},
    ),
}  # fmt: skip
INPUTS = "float[N, 3, H, 7] x, float[N, 6] m, float[N, 6, L] l"


@pytest.mark.parametrize("name", sorted(BODIES))
def test_the_graph_computes_what_the_standard_says(tmp_path: Path, name: str) -> None:
    body, weights = BODIES[name]
    used = {
        key: array for key, array in weights.items() if f" {key}," in body or f" {key})" in body
    }
    made = model(INPUTS.replace("H", "5") if "Layer" in name else INPUTS, body, **used)
    agree(tmp_path, made, {"x": normal(2, 3, 5, 7), "m": normal(2, 6), "l": normal(2, 6, 5)})


@pytest.mark.parametrize("name", sorted(NEW))
def test_layers_of_newer_versions(tmp_path: Path, name: str) -> None:
    body, weights = NEW[name]
    inputs = "float[N, 3, 5, 7] x, float[N, 2, 4, 8] h, float[2, 4, 16] f, int64[N, 4] i"
    made = model(inputs, body, opset=23, **weights)
    ids = np.arange(8).reshape(2, 4)
    arrays = {"x": normal(2, 3, 5, 7), "h": normal(2, 2, 4, 8), "f": normal(2, 4, 16), "i": ids}
    agree(tmp_path, made, arrays)


def test_ceil_mode_counts_windows_that_begin_inside(tmp_path: Path) -> None:
    body = "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)"
    for size in (5, 6, 7):
        made = model(f"float[N, 3, {size}, {size}] x", body)
        agree(tmp_path, made, {"x": normal(2, 3, size, size)})


def test_padding_that_differs_by_side(tmp_path: Path) -> None:
    # The standard's reference pads the wrong side here.
    made = model(
        "float[N, 3, H, 7] x", "y = MaxPool<kernel_shape = [2, 2], pads = [0, 0, 1, 1]>(x)"
    )
    x = normal(2, 3, 5, 7)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-np.inf)
    views = [padded[:, :, i : i + 5, j : j + 7] for i in (0, 1) for j in (0, 1)]
    [got] = run(imported(tmp_path, made), {"x": x})
    np.testing.assert_array_equal(got, np.maximum.reduce(views))


def test_every_rule_is_tried() -> None:
    tried = " ".join(body for body, _ in (*BODIES.values(), *NEW.values()))
    assert not [op for op in LAYERS if f" {op}(" not in tried and f" {op}<" not in tried]


def test_a_weight_is_a_linear_map_either_way(tmp_path: Path) -> None:
    for body, shape in (("y = MatMul(x, w)", (7, 5)), ("y = Gemm<transB = 1>(x, w)", (5, 7))):
        graph = imported(tmp_path, model("float[N, 7] x", body, w=normal(*shape))).graph
        assert [node.op for node in graph.nodes][-1] == "linear"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('y = Einsum<equation = "...ij -> ...ji">(x)', "does not name every dimension"),
        ('y = Resize<mode = "cubic", cubic_coeff_a = -0.5>(x, , s)', "mode 'cubic'"),
        ("y = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(x)", "ceil_mode"),
        ("y, z = MaxPool<kernel_shape = [2, 2]>(x)", "places of the greatest"),
        ("y = Conv<strides = [0, 1]>(x, w)", "not positive"),
        ("y = Conv<pads = [1, 1]>(x, w)", "pads do not fit"),
        ("y, m, d = LayerNormalization(x, g)", "mean and deviation"),
        ('y = ConvTranspose<auto_pad = "VALID">(x, t)', "padding"),
    ],
)
def test_forms_that_are_refused(tmp_path: Path, body: str, why: str) -> None:
    weights = {
        "w": normal(4, 3, 2, 2),
        "t": normal(3, 4, 2, 2),
        "g": normal(7),
        "s": np.array([1, 1, 2, 2], np.float32),
    }
    used = {key: array for key, array in weights.items() if f" {key})" in body}
    with pytest.raises(UnsupportedError, match=why):
        imported(tmp_path, model("float[N, 3, H, 7] x", body, **used))
