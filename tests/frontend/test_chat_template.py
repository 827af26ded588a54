import json

import pytest

from graphopt.errors import CheckpointError
from graphopt.frontend.chat_template import find_chat_template

NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"chat_template": None}, None),
        ({"chat_template": "text"}, "text"),
        ({"chat_template": NAMED}, "D"),
        ({"chat_template": NAMED[::-1]}, "D"),
        ({"chat_template": NAMED[1:]}, "T"),
        ({"chat_template": [NAMED[1], {"name": "rag", "template": "R"}]}, None),
        ({"chat_template": []}, None),
        ({"chat_template": {"default": "D", "rag": "R"}}, "D"),
    ],
)
def test_templates_in_the_config(tmp_path, config, expected):
    assert find_chat_template(tmp_path, config) == expected


def test_files_beside_the_config(tmp_path):
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    assert find_chat_template(tmp_path, {}) == "from json"
    assert find_chat_template(tmp_path, {"chat_template": "from config"}) == "from config"
    (tmp_path / "chat_template.jinja").write_text("from jinja ü\r\n", encoding="utf-8", newline="")
    assert find_chat_template(tmp_path, {"chat_template": "from config"}) == "from jinja ü\n"


@pytest.mark.parametrize(
    "template", [1, [1], [{"template": "x"}], [{"name": "a"}], {"default": 1}, [["a", "b"]], True]
)
def test_templates_that_are_not_text(tmp_path, template):
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        find_chat_template(tmp_path, {"chat_template": template})


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"chat_template\.json"):
        find_chat_template(tmp_path, {})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        find_chat_template(tmp_path, {})
