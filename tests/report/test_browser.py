"""The page in a real browser: what a reader does with it, and that it evaluates as Python does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from graphopt.errors import IRError
from graphopt.ir.shape import evaluate, parse_dim
from graphopt.report.page import report_page
from graphopt.report.source import ReportSource

from ..browsers import installed_browser
from .models import compiled, decoder
from .test_page import HOSTILE, hostile

pytestmark = [pytest.mark.browser, pytest.mark.full]

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with installed_browser() as found:
        yield found


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a model from a file, without a network; at the end nothing complained."""
    complaints: list[str] = []
    requests: list[str] = []
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 800})

    def open_one(source: ReportSource, *, dark: bool = False) -> Page:
        file = tmp_path / "report.html"
        file.write_text(report_page(source), encoding="utf-8")
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_one
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("file:")] == []


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page(compiled(decoder(6)))


def boxes(page: Page) -> list[str]:
    return page.locator(".pane:not([hidden]) .box .box-name").all_text_contents()


def fit(page: Page) -> None:
    """All of the graph into view."""
    page.locator(".pane:not([hidden])").get_by_role("button", name="Fit all of it").click()


def test_one_layer_of_a_kind_is_open(page: Page) -> None:
    assert boxes(page).count("linear") == 2  # of the first layer, and the head
    assert page.locator(".pane:not([hidden]) .chip text").all_text_contents() == list("12345")
    expect(page.locator("h1")).to_have_text("tiny")


def test_a_layer_opens_and_closes(page: Page) -> None:
    fit(page)
    page.locator(".pane:not([hidden]) .chip text", has_text="3").click()
    titles = page.locator(".pane:not([hidden]) .group-title").all_text_contents()
    assert titles == [
        "before the layers", "layer 0", "layers 1–2", "layer 3", "layers 4–5", "after the layers",
    ]  # fmt: skip
    fit(page)
    page.locator(".pane:not([hidden]) .closer").first.click()
    assert "layers 0–2" in page.locator(".pane:not([hidden]) .group-title").all_text_contents()


def test_search_marks_and_goes_to_hits(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("q_proj layers.4")
    expect(page.locator("output").first).to_have_text("1 of 33")
    page.keyboard.press("Enter")
    expect(page.locator(".box.hit.chosen")).to_have_count(1)
    expect(page.locator(".details h2")).to_have_text("linear")
    expect(page.locator(".details .path")).to_have_text("model.layers.4.self_attn.q_proj")
    page.keyboard.press("Escape")
    expect(page.locator(".box.hit")).to_have_count(0)
    expect(page.locator(".details h2")).to_have_text("Nothing is chosen")


def test_a_click_shows_where_a_box_comes_from(page: Page) -> None:
    page.locator(".pane:not([hidden]) .box", has_text="linear").first.click()
    details = page.locator(".details")
    expect(details).to_contain_text("modeling_tiny.py:7 in model.layers.0.self_attn.q_proj")
    expect(details).to_contain_text("@model.layers.0.self_attn.q_proj.weight")
    expect(details).to_contain_text("bf16[T, 8]")
    expect(details).to_contain_text("void kernel() {}")
    expect(details).to_contain_text("applied fuse, saves 64 B")
    expect(details).to_contain_text("%2: bf16[T, 8] = linear(%1, @model.layers.0.self_attn")
    details.locator("button.link", has_text="%1").click()
    expect(details.locator("h2")).to_have_text("rms_norm")


def test_a_region_shows_its_operators(page: Page) -> None:
    fit(page)
    page.locator(".pane:not([hidden]) .box", has_text="reshape+attention").first.click()
    source = page.locator(".details pre").last.text_content()
    assert source is not None
    assert [line.split(" = ")[1].split("(")[0] for line in source.splitlines()] == [
        "reshape", "attention",
    ]  # fmt: skip
    assert "{layer = 0, scale = 0.5" in source


def test_the_keyboard_brings_layers_into_view(page: Page) -> None:
    chip = page.locator(".pane:not([hidden]) .chip").last
    chip.focus()
    expect(chip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator(".pane:not([hidden]) .group-title", has_text="layer 5")).to_have_count(1)


def test_zoom_and_pan(page: Page) -> None:
    percent = page.locator(".pane:not([hidden]) .percent")
    expect(percent).to_have_text("100%")
    page.locator(".pane:not([hidden]) .zoom button").nth(1).click()
    expect(percent).to_have_text("130%")
    page.locator(".pane:not([hidden]) .canvas").focus()
    page.keyboard.press("0")
    expect(percent).not_to_have_text("130%")
    stage = page.locator(".pane:not([hidden]) .canvas > g")
    before = stage.get_attribute("transform")
    page.mouse.move(300, 500)
    page.mouse.wheel(0, 120)
    page.mouse.down()
    page.mouse.move(340, 530, steps=3)
    page.mouse.up()
    assert stage.get_attribute("transform") != before


def test_before_after_and_both(page: Page) -> None:
    page.get_by_role("button", name="before", exact=True).click()
    assert boxes(page).count("reshape") == 2
    page.get_by_role("button", name="side by side").click()
    expect(page.locator(".pane:not([hidden])")).to_have_count(2)


def test_the_batch_changes_the_numbers(page: Page) -> None:
    page.locator("#tab-cost").click()
    card = page.locator("#view-cost .card-value").nth(1)
    # per token 7 products: 6 layers of 2*8*8, the head 2*8*11, and smaller work
    before = card.text_content()
    page.locator("#in-T").fill("1000")
    expect(card).not_to_have_text(before or "")
    expect(page.locator("select").first).to_have_value("")
    page.locator("#in-T").fill("-1")
    expect(page.locator("#in-T")).to_have_attribute("aria-invalid", "true")
    page.locator("select").first.select_option("1")
    expect(page.locator("#in-T")).to_have_value("64")
    expect(page.locator("#in-T")).to_have_attribute("aria-invalid", "false")


def test_the_machine_changes_the_bound(page: Page) -> None:
    page.locator("#tab-cost").click()
    bound = page.locator("#view-cost tbody .bound").first
    expect(bound).to_have_text("memory")
    page.locator("#in-T").fill("64")
    page.locator("#in-rate").fill("0.000001")
    page.locator("#view-cost tbody tr", has_text="linear").first.wait_for()
    texts = page.locator("#view-cost tbody .bound").all_text_contents()
    assert "arithmetic" in texts


def test_costs_are_those_of_python(page: Page) -> None:
    from graphopt.report.costs import region_bytes
    from graphopt.report.items import step_items

    source = compiled(decoder(6))
    sizes = {"T": 64, "S": 64, "R": 64, "context": 1024, "P": 64}
    total = sum(
        evaluate(region_bytes(item), sizes) for item in step_items(source.graph, source.plan)
    )
    page.locator("#tab-cost").click()
    page.locator("select").first.select_option("1")
    expect(page.locator("#view-cost .card-value").first).to_have_text(
        f"{total / 2**20:.2f} MiB" if total < 10 * 2**20 else f"{total / 2**20:.1f} MiB"
    )


def test_a_cost_leads_to_its_box(page: Page) -> None:
    page.locator("#tab-cost").click()
    page.locator("#view-cost tbody tr", has_text="lm_head").click()
    expect(page.locator("#view-graph")).to_be_visible()
    expect(page.locator(".details .path")).to_have_text("lm_head")


def test_the_ledger_is_filtered(page: Page) -> None:
    page.locator("#tab-ledger").click()
    rows = page.locator("#view-ledger .grid").nth(1).locator("tbody tr")
    count = page.locator("#view-ledger output")
    everything = rows.count()
    expect(count).to_contain_text("7 decisions")
    page.get_by_label("Decision").select_option("no")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("refused")
    rows.first.locator(".twist").click()
    expect(rows).to_have_count(4)
    page.get_by_label("Decision").select_option("")
    page.get_by_label("Filter by words").fill("share lm_head")
    expect(rows).to_have_count(1)
    page.get_by_label("Filter by words").fill("nothing like that")
    expect(rows).to_have_text("Nothing here.")
    page.get_by_label("Filter by words").fill("")
    expect(rows).to_have_count(everything + 3)  # the opened row stays open


def test_memory_names_what_is_live(page: Page) -> None:
    page.locator("#tab-memory").click()
    page.locator(".chart").focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".finger")).to_contain_text("step 0")
    expect(page.locator(".finger")).to_contain_text("%token_ids")
    box = page.locator(".chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 60)
    expect(page.locator(".finger")).to_contain_text("step 32")


def test_pieces_and_passes(page: Page) -> None:
    page.locator("#tab-pieces").click()
    expect(page.locator("#view-pieces .card-value").first).to_have_text("13")
    expect(page.locator("#view-pieces")).to_contain_text("attention depends on lengths")
    page.locator("#tab-passes").click()
    expect(page.locator("#view-passes")).to_contain_text("clean")
    expect(page.locator("#view-passes")).to_contain_text("10.0 ms")


def test_dark_and_light(open_page: Open) -> None:
    source = compiled(decoder(1))
    paper = "getComputedStyle(document.querySelector('header')).backgroundColor"
    light, dark = (open_page(source, dark=dark).evaluate(paper) for dark in (False, True))
    assert light == "rgb(255, 255, 255)"
    assert max(map(int, dark[4:-1].split(", "))) < 64


def test_no_box_covers_another(page: Page) -> None:
    overlaps = page.evaluate(
        """() => {
          const pane = document.querySelector(".pane:not([hidden])");
          const rects = [...pane.querySelectorAll(".box, .pill")]
            .map((e) => e.getBoundingClientRect());
          return rects.filter((a, i) => rects.some((b, j) => i < j && a.left < b.right - 1
            && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length;
        }"""
    )
    assert overlaps == 0


def test_text_stays_in_its_box(page: Page) -> None:
    over = page.evaluate(
        """() => [...document.querySelectorAll(".pane:not([hidden]) .box")].filter((box) => {
          const frame = box.querySelector("rect").getBoundingClientRect();
          return [...box.querySelectorAll("text")].some((text) => {
            const r = text.getBoundingClientRect();
            return r.left < frame.left || r.right > frame.right + 1;
          });
        }).length"""
    )
    assert over == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_model_runs_nothing(text: str, open_page: Open) -> None:
    page = open_page(hostile(text))
    page.locator(".pane:not([hidden]) .box", has_text="linear").first.click()
    for name in ("cost", "memory", "pieces", "ledger", "passes", "graph"):
        page.locator(f"#tab-{name}").click()
    expect(page.locator(".details")).to_contain_text("linear")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_sizes_are_those_of_python(open_page: Open) -> None:
    """The page's own evaluator against the compiler's, on random expressions."""
    rng = random.Random(0)
    cases = []
    while len(cases) < 400:
        env = {name: rng.randint(1, 10**6) for name in "TSRP"}
        try:
            dim = parse_dim(expression(rng, 4))
            cases.append([str(dim), env, str(evaluate(dim, env))])
        except IRError as error:  # a division by zero, which is no size
            assert "zero" in error.what  # noqa: PT017
    page = open_page(compiled(decoder(1)))
    page.goto("about:blank")
    script = (files("graphopt.report") / "page" / "sizes.js").read_text()
    values = "return cases.map(([text, env]) => String(evaluateSize(text, env)));"
    found = page.evaluate(f"(cases) => {{ {script}\n{values} }}", cases)
    assert found == [value for _, _, value in cases]


def expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice([*"TSRP", str(rng.randint(0, 99)), str(10 ** rng.randint(3, 18))])
    left, right = (expression(rng, depth - 1) for _ in range(2))
    kind = rng.choice(["+", "-", "*", "//", "%", "min", "max", "neg"])
    if kind in ("min", "max"):
        return f"{kind}({left}, {right}, {rng.randint(0, 9)})"
    if kind == "neg":
        return f"-({left})"
    return f"({left}) {kind} ({right})"


def test_a_large_model_opens_at_once(open_page: Open) -> None:
    page = open_page(compiled(decoder(80)))
    timing = json.loads(
        page.evaluate("JSON.stringify(performance.getEntriesByType('navigation')[0])")
    )
    assert timing["domComplete"] < 3000  # measured: 0.2 s on an idle machine
