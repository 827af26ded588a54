"""Templates render as in transformers, and nothing they do can hurt."""

import itertools

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from graphopt.errors import ArtifactError, RequestError
from graphopt.runtime.chat_template import MAX_TEMPLATE_CHARS, ChatTemplate, plain

CHATML = """{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {{- message['content'] | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TOOLS = """{% if tools %}
    {% for tool in tools %}
{{ tool | tojson(indent=2) }}
    {% endfor %}
{% endif %}
{% set ns = namespace(count=0) %}
{% for m in messages %}
    {% if m.role == 'skip' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% generation %}
{{ ns.count }} {{ m.content }} & <b>{{ m | tojson }}</b>
    {% endgeneration %}
    {% if ns.count == 2 %}
        {% break %}
    {% endif %}
{% endfor %}
"""
MACROS = """{% macro show(m, depth) %}
{{ '-' * depth }}{{ m.content }}
{% endmacro %}
{% for m in messages %}{{ show(m, loop.index) }}{% endfor %}
{{ dict(a=1).items() | list }} {{ range(3) | list }} {{ documents is none }}"""

MESSAGES = [
    {"role": "user", "content": " What's 1 < 2? «ü» "},
    {"role": "skip", "content": "never"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And?"},
]
FUNCTION = [{"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "int"}}}}]


@pytest.mark.parametrize("source", [CHATML, TOOLS, MACROS], ids=["chatml", "tools", "macros"])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, FUNCTION])
def test_agreement_with_transformers(source, prompt, tools):
    rendered, _ = render_jinja_template(
        [MESSAGES], tools=tools, chat_template=source, add_generation_prompt=prompt, bos_token="<s>"
    )
    ours = ChatTemplate(source).render(
        MESSAGES, {"bos_token": "<s>"}, tools=tools, add_generation_prompt=prompt
    )
    assert ours == rendered[0]


def test_the_date_is_there():
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([], {}).isdigit()


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content }}",
        "{{ messages.nothing.more }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ messages | first | int('x') | sum }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'other' %}",
    ],
)
def test_a_template_that_fails_is_a_typed_error(source):
    with pytest.raises(RequestError, match="cannot render") as caught:
        ChatTemplate(source).render([], {})
    assert caught.value.got


def test_the_reason_of_raise_exception_is_shown():
    with pytest.raises(RequestError) as caught:
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render([], {})
    assert "roles must alternate" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ dict.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ lipsum() }}",
        "{{ namespace(a=1).__init__('x') }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ 'x' * 999999999 }}",
        "{{ 999999999 * 'x' }}",
        "{{ 10 ** 99999999 }}",
        "{{ [0] * 999999999 }}",
        "{{ range(10000000) | list }}",
    ],
)
def test_the_sandbox_holds(source):
    with pytest.raises(RequestError):
        ChatTemplate(source).render([], {})


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(40) }}",
        "{% for a in range(99999) %}{% set x = a %}{% for b in range(99999) %}{% continue %}"
        "{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_does_not_end_is_stopped(source):
    ticks = itertools.count()
    with pytest.raises(RequestError, match="too long"):
        ChatTemplate(source, clock=lambda: next(ticks) / 1000.0).render([], {})
    assert next(ticks) > 4000


DOUBLING = (
    "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}"
)


@pytest.mark.parametrize(
    "source",
    [
        DOUBLING % ("'a'", "ns.x ~ ns.x"),
        DOUBLING % ("'a'", "ns.x + ns.x"),
        DOUBLING % ("[1]", "ns.x + ns.x"),
        DOUBLING % ("'a'", "[ns.x, ns.x] | join"),
        DOUBLING % ("'a'", "[ns.x, ns.x] | string"),
        DOUBLING % ("'aa'", "ns.x.replace('a', 'aa')"),
        DOUBLING % ("'aa'", "ns.x | replace('a', 'aa')"),
        DOUBLING % ("'a'", "'%s%s' % (ns.x, ns.x)"),
        DOUBLING % ("'a'", "'{}{}'.format(ns.x, ns.x)"),
        DOUBLING % ("2", "ns.x * ns.x"),
        DOUBLING % ("'a'", "{'k': [ns.x, ns.x]} | tojson"),
        "{% for a in range(99999) %}{% set x = 'x' * 9999999 %}{% endfor %}",
        "{{ range(99999) | map('center', 9999) | list | length }}",
    ],
)
def test_values_that_grow_are_stopped(source):
    with pytest.raises(RequestError, match=r"too large|too long"):
        ChatTemplate(source).render([], {})


def test_more_blocks_than_python_nests_are_refused():
    with pytest.raises(ArtifactError, match="not valid"):
        ChatTemplate("{% for a in [1] %}" * 60 + "{% endfor %}" * 60)


def test_a_template_that_writes_without_end_is_stopped():
    source = "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}"
    with pytest.raises(RequestError, match="too much"):
        ChatTemplate(source).render([], {})


def test_templates_that_are_none():
    with pytest.raises(ArtifactError, match="not valid") as caught:
        ChatTemplate("hello\n{% if %}")
    assert caught.value.where == "line 2"
    with pytest.raises(ArtifactError, match="too long"):
        ChatTemplate("x" * (MAX_TEMPLATE_CHARS + 1))


def test_messages_are_rebuilt_from_plain_values():
    class Sly(str):
        def upper(self):
            raise AssertionError("a template reached a method of the caller's")

    assert ChatTemplate("{{ messages[0].content.upper() }}").render(
        [{"role": "user", "content": Sly("abc")}], {}
    ) == ("ABC")
    assert plain({"a": (1, 2.5, True, None, "x")}, "m") == {"a": [1, 2.5, True, None, "x"]}
    with pytest.raises(RequestError, match="plain values") as caught:
        plain([{"content": object()}], "messages")
    assert caught.value.where == "messages[0].content"
    with pytest.raises(RequestError):
        plain([b"bytes"], "messages")
