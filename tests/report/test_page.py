"""The page as text: one file, nothing loaded, nothing of a model read as markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from graphopt.report.document import document
from graphopt.report.page import SCRIPTS, embedded, report_page
from graphopt.report.source import ReportSource

from .models import compiled, decoder, two_layers

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "\"'`${alert(1)}",
    "{{ 7 * 7 }}",
    "\u2028\u2029 \ud800 &lt;",
    "__proto__",
)


class Page(HTMLParser):
    """The elements of a page with their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data

    def text(self, tag: str, number: int = 0) -> str:
        places = [i for i, (name, _) in enumerate(self.elements) if name == tag]
        return self.texts[places[number]]


def hostile(text: str) -> ReportSource:
    """A model with a text wherever a model's author has a say."""
    graph = decoder(2, file=text)
    return compiled(graph, name=text, kernel=text)


def test_elements_and_what_they_hold() -> None:
    source = two_layers()
    page = Page(report_page(source))
    tags = [tag for tag, _ in page.elements]
    assert tags == [
        "html", "head", *["meta"] * 5, "title", "style", "body", "noscript", "div", "script",
        "script",
    ]  # fmt: skip
    assert page.text("title") == "tiny · graphopt"
    assert json.loads(page.text("script")) == json.loads(json.dumps(document(source)))


def test_nothing_is_loaded() -> None:
    text = report_page(two_layers())
    assert not re.search(r"\b(src|href|action|import|fetch|XMLHttpRequest|WebSocket)\s*[=(]", text)
    assert re.findall(r"https?://[^\s\"'`]+", text) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in Page(text).text("style")


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    page = Page(report_page(two_layers()))
    (policy,) = (
        attrs["content"]
        for tag, attrs in page.elements
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'{digest(page.text('script', 1))}'"
    assert rules["style-src"] == f"'{digest(page.text('style'))}'"


def digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_model_adds_no_element(text: str) -> None:
    page = Page(report_page(hostile(text)))
    plain = Page(report_page(two_layers()))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.text("script", 1) == plain.text("script", 1)
    data = json.loads(page.text("script"))
    assert data["model"]["name"] == text
    assert data["kernels"]["linear"] == text


def test_json_that_ends_nothing() -> None:
    assert embedded({"a<b>&": "</script>"}) == (
        '{"a\\u003cb\\u003e\\u0026":"\\u003c/script\\u003e"}'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded(float("nan"))


def test_markup_is_never_made_from_text() -> None:
    script = Page(report_page(two_layers())).text("script", 1)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser"):
        assert word not in script
    assert not re.search(r"\b(eval|Function|setTimeout|setInterval)\s*\(", script)


def test_every_script_is_there() -> None:
    from importlib.resources import files

    folder = files("graphopt.report") / "page"
    names = {item.name for item in folder.iterdir()}
    assert names == {"report.html", "report.css", *(f"{name}.js" for name in SCRIPTS)}


def test_eighty_layers_stay_small() -> None:
    assert len(report_page(compiled(decoder(80)))) < 500_000
