from __future__ import annotations

from types import SimpleNamespace

import pytest

from graphopt.frontend.source import location_of
from graphopt.ir.graph import SourceLocation

TRACE = """File "/somewhere/graphopt/frontend/export.py", line 59, in forward
    logits = model(ids)
File "/site/transformers/models/llama/modeling_llama.py", line 300, in forward
    hidden = self.mlp(hidden)
File "/site/transformers/models/llama/modeling_llama.py", line 164, in forward
    down = self.down_proj(x)
File "/site/torch/nn/modules/linear.py", line 134, in forward
    return F.linear(x)
"""


def node(trace: str | None, *stack: tuple[str, object]) -> SimpleNamespace:
    meta = {"stack_trace": trace, "nn_module_stack": {str(i): e for i, e in enumerate(stack)}}
    return SimpleNamespace(meta=meta)


LINEAR = ("held.model.layers.0.mlp.down_proj", "torch.nn.modules.linear.Linear")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            node(TRACE, ("", "Wrapper"), LINEAR),
            SourceLocation("modeling_llama.py", 164, "model.layers.0.mlp.down_proj"),
        ),
        (node(TRACE.replace("/", "\\"), LINEAR), None),
        (
            node('File "/my/net.py", line 7, in forward', ("held.block@1", "my.net.Block")),
            SourceLocation("net.py", 7, "block"),
        ),
        (node(None), SourceLocation("", 0, "")),
    ],
)
def test_the_deepest_line_of_the_models_code(given, expected: SourceLocation | None) -> None:
    found = location_of(given, "held")
    assert found == (expected or SourceLocation("modeling_llama.py", 164, found.module))


def test_a_class_object_names_its_file_too() -> None:
    class Net:
        pass

    Net.__module__ = "my.net"
    text = 'File "/my/net.py", line 7, in forward\nFile "/my/helper.py", line 2, in f'
    assert location_of(node(text, ("held", Net)), "held") == SourceLocation("net.py", 7, "")
