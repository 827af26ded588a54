"""What the model reads: definitions parse, conversations follow the chat template, sides differ."""

from __future__ import annotations

import ast

from checkpoint import CHAT_TEMPLATE
from corpus import Entry, Kind
from documents import build_corpus, conversations, first_sentence, render_definition
from jinja2 import Template

LACE = Entry(
    "shoes.lace",
    "def lace(shoe, knots=2):",
    "Tie the laces of a shoe.  Two knots hold.\n\nRaises ValueError without laces.",
    Kind.FUNCTION,
)


def test_a_rendered_definition_is_python_with_the_same_documentation() -> None:
    function = ast.parse(render_definition(LACE)).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert ast.get_docstring(function) == LACE.text


def test_without_a_signature_the_text_stands_alone() -> None:
    entry = Entry("shoes", "", "Reads and writes shoes.", Kind.MODULE)
    assert render_definition(entry) == "Reads and writes shoes.\n"


def test_first_sentence_ends_where_the_next_begins() -> None:
    assert first_sentence("Ties e.g. a\nshoe. Then rests.\n\nMore.") == "Ties e.g. a shoe."
    assert first_sentence("no full stop") == "no full stop"


def test_conversations_are_what_the_chat_template_writes() -> None:
    documents = conversations([LACE])
    template = Template(CHAT_TEMPLATE, keep_trailing_newline=True)
    answer = "Tie the laces of a shoe. Two knots hold."
    assert len(documents) == 2  # three wordings: a turn alone, then two in a row
    for document in documents:
        messages = []
        for turn in document.split("<|end|>\n")[:-1]:
            role, content = turn.removeprefix("<|").split("|>\n")
            messages.append({"role": role, "content": content})
        assert [message["content"] for message in messages][1::2] == [answer] * (len(messages) // 2)
        assert template.render(messages=messages, bos_token="") == document


def test_private_names_and_lists_of_options_are_not_asked_about() -> None:
    private = Entry("shoes._lace", "def _lace():", LACE.text, Kind.FUNCTION)
    table = Entry("shoes.f", "def f():", "f(x) -> shoe", Kind.FUNCTION)
    assert conversations([private, table]) == []


def test_no_held_out_text_is_in_a_training_document() -> None:
    entries = [
        Entry(f"m.f{i}", "def f():", f"Word{i} " + f"only{i} here{i}. " * 5, Kind.FUNCTION)
        for i in range(400)
    ]
    corpus = build_corpus(entries)
    assert corpus.held_out
    training = "".join(corpus.training)
    for document in corpus.held_out:
        word = document.split('"""')[1].split()[0]
        assert f"{word} " not in training
    assert corpus.held_out_text.count("<|endoftext|>") == len(corpus.held_out) + 1
