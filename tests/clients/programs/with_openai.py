"""Talks to a server as users of the openai package do: ``python with_openai.py BASE_URL KEY``.

Runs unchanged with 2.x and 3.x of the package, and imports nothing else but the standard library.
It ends with a line that says which version talked, and with an exception if an answer is not what
the package's own types promise.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from typing import Any

import openai

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "count_words", "description": "Counts words.", "parameters": SCHEMA},
}
QUESTION = [{"role": "user", "content": "What does this function return?"}]


def demand(truth: object, what: object) -> None:
    """Stop unless something holds."""
    if not truth:
        raise SystemExit(f"not so: {what}")


def models(client: Any) -> str:
    """The model's name, which all else asks for."""
    listed = client.models.list().data
    demand(len(listed) >= 1, listed)
    name: str = listed[0].id
    demand(client.models.retrieve(name).id == name, name)
    return name


def completions(client: Any, model: str) -> None:
    """Plain, several at once, streamed, scored."""
    one = client.completions.create(
        model=model, prompt="def read(", max_tokens=8, temperature=0, logprobs=2
    )
    choice = one.choices[0]
    demand(choice.finish_reason == "length", choice)
    demand(choice.logprobs is not None and len(choice.logprobs.token_logprobs or ()) == 8, choice)
    demand(one.usage is not None and one.usage.completion_tokens == 8, one.usage)
    many = client.completions.create(
        model=model, prompt=["import ", "return "], max_tokens=4, n=2, temperature=0.8, seed=1
    )
    demand([row.index for row in many.choices] == [0, 1, 2, 3], many.choices)
    pieces, usage = [], None
    for chunk in client.completions.create(
        model=model,
        prompt="def read(",
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        pieces += [row.text for row in chunk.choices]
        usage = chunk.usage or usage
    demand("".join(pieces) == choice.text, (pieces, choice.text))
    demand(usage is not None and usage.completion_tokens == 8, usage)
    scored = client.completions.create(
        model=model, prompt="def read(self):", max_tokens=0, echo=True, logprobs=1
    )
    report = scored.choices[0].logprobs
    demand(scored.choices[0].text == "def read(self):", scored)
    demand(report is not None and (report.token_logprobs or [0])[0] is None, report)
    demand(all(value <= 0 for value in (report.token_logprobs or [])[1:]), report)
    stopped = client.completions.create(
        model=model, prompt="def read(", max_tokens=8, temperature=0, stop=choice.text[3:5]
    )
    demand(stopped.choices[0].text == choice.text[: choice.text.index(choice.text[3:5])], stopped)
    demand(stopped.choices[0].finish_reason == "stop", stopped)


def chat(client: Any, model: str) -> None:
    """One answer, the same streamed, and its log-probabilities."""
    whole = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_completion_tokens=12,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    choice = whole.choices[0]
    demand(choice.message.role == "assistant", choice)
    content = choice.logprobs.content if choice.logprobs else None
    demand(content and all(len(row.top_logprobs) == 3 for row in content), choice.logprobs)
    demand(all(math.isfinite(row.logprob) for row in content or ()), content)
    pieces, roles, reasons = [], [], []
    with client.chat.completions.create(
        model=model, messages=QUESTION, max_completion_tokens=12, temperature=0, stream=True
    ) as stream:
        for chunk in stream:
            for row in chunk.choices:
                pieces.append(row.delta.content or "")
                roles += [row.delta.role] if row.delta.role else []
                reasons += [row.finish_reason] if row.finish_reason else []
    demand("".join(pieces) == choice.message.content, (pieces, choice))
    demand(roles == ["assistant"] and reasons == [choice.finish_reason], (roles, reasons))


def structured(client: Any, model: str) -> None:
    """Answers that fit a schema, and a tool that has to be called."""
    answer = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_completion_tokens=96,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "counted", "schema": SCHEMA, "strict": True},
        },
    )
    found = json.loads(answer.choices[0].message.content or "")
    demand(set(found) == {"name", "count"} and 0 <= found["count"] <= 99, found)
    asked = {
        "model": model,
        "messages": QUESTION,
        "max_completion_tokens": 128,
        "temperature": 0,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "count_words"}},
    }
    called = client.chat.completions.create(**asked).choices[0]
    demand(called.finish_reason == "tool_calls", called)
    calls = called.message.tool_calls or []
    demand([call.function.name for call in calls] == ["count_words"], calls)
    demand(set(json.loads(calls[0].function.arguments)) == {"name", "count"}, calls)
    name, arguments, ids, deltas = "", "", set(), 0
    for chunk in client.chat.completions.create(**asked, stream=True):
        for row in chunk.choices:
            for delta in row.delta.tool_calls or ():
                deltas += 1
                ids |= {delta.id} if delta.id else set()
                name += (delta.function.name or "") if delta.function else ""
                arguments += (delta.function.arguments or "") if delta.function else ""
    demand(name == "count_words" and len(ids) == 1, (name, ids))
    demand(arguments == calls[0].function.arguments, arguments)
    demand(deltas > 3, "arguments are not streamed")
    again = client.chat.completions.create(
        model=model,
        messages=[
            *QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [calls[0].model_dump()]},
            {"role": "tool", "tool_call_id": calls[0].id, "content": "3"},
        ],
        tools=[TOOL],
        max_completion_tokens=4,
    )
    demand(again.choices[0].finish_reason in ("length", "stop", "tool_calls"), again)


def responses(client: Any, model: str) -> None:
    """The newer surface: text, and the same as events."""
    whole = client.responses.create(
        model=model, input="def read(", max_output_tokens=16, temperature=0
    )
    demand(whole.output_text and whole.usage is not None, whole)
    text, last = "", None
    for event in client.responses.create(
        model=model, input="def read(", max_output_tokens=16, temperature=0, stream=True
    ):
        last = event.type
        text += event.delta if event.type == "response.output_text.delta" else ""
    demand(text == whole.output_text, (text, whole.output_text))
    demand(last in ("response.completed", "response.incomplete"), last)
    scored = client.responses.create(
        model=model,
        input="def read(",
        max_output_tokens=16,
        temperature=0,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    rows = scored.output[0].content[0].logprobs
    demand(rows and all(len(row.top_logprobs) == 2 for row in rows), rows)


def functions(client: Any, model: str) -> None:
    """The newer surface: a form, a call, the same as events, and what came of it."""
    shaped = client.responses.create(
        model=model,
        input="What does this function return?",
        max_output_tokens=96,
        text={"format": {"type": "json_schema", "name": "c", "schema": SCHEMA, "strict": True}},
    )
    demand(set(json.loads(shaped.output_text)) == {"name", "count"}, shaped)
    asked: dict[str, Any] = {
        "model": model,
        "input": QUESTION,
        "max_output_tokens": 128,
        "temperature": 0,
        "tools": [{"type": "function", **TOOL["function"], "strict": False}],
        "tool_choice": {"type": "function", "name": "count_words"},
    }
    whole = client.responses.create(**asked)
    (call,) = whole.output
    demand(call.type == "function_call" and call.name == "count_words", whole)
    demand(set(json.loads(call.arguments)) == {"name", "count"}, call)
    pieces: list[str] = []
    with client.responses.stream(**asked) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                pieces.append(event.delta)
        last = stream.get_final_response()
    demand(len(pieces) > 1 and "".join(pieces) == call.arguments, pieces)
    demand([item.type for item in last.output] == ["function_call"], last)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    again = client.responses.create(
        model=model,
        input=[*QUESTION, call.model_dump(exclude_none=True), output],
        tools=asked["tools"],
        max_output_tokens=16,
    )
    demand(again.usage is not None, again)


def errors(client: Any, model: str) -> None:
    """What is wrong has the right status, the right class, and says what."""
    expected = (
        (openai.NotFoundError, {"model": "no-such-model", "prompt": "a"}),
        (openai.BadRequestError, {"model": model, "prompt": "a", "temperature": -1}),
        (openai.BadRequestError, {"model": model, "prompt": "a", "max_tokens": 10**9}),
        (openai.BadRequestError, {"model": model, "prompt": [10**9]}),
        (openai.BadRequestError, {"model": model, "prompt": "a", "n": 10**6}),
    )
    for kind, body in expected:
        try:
            client.completions.create(**body)
        except kind as error:
            demand(error.body and len(str(error)) < 2000, error)
        else:
            demand(body.get("max_tokens") == 10**9, f"{body} was answered")
    stranger = client.with_options(api_key="not-the-key")
    try:
        stranger.models.list()
    except openai.AuthenticationError as error:
        demand("not-the-key" not in str(error), error)
    else:
        demand(False, "a wrong key was taken")


async def many(base_url: str, key: str, model: str) -> None:
    """Sixteen streams at once, one of them left in the middle."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:

        async def one(number: int) -> int:
            chunks = 0
            stream = await client.completions.create(
                model=model, prompt=f"x{number} = ", max_tokens=24, stream=True, seed=number
            )
            async for _ in stream:
                chunks += 1
                if number == 7 and chunks == 2:
                    await stream.close()
                    break
            return chunks

        found = await asyncio.gather(*(one(number) for number in range(16)))
        demand(all(found), found)


def main() -> None:
    """Everything, in order."""
    base_url, key = sys.argv[1:3]
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        model = models(client)
        for part in (completions, chat, structured, responses, functions, errors):
            part(client, model)
            print(f"{part.__name__}: fine", flush=True)
    asyncio.run(many(base_url, key, model))
    print(f"openai {openai.__version__}: all is as its types promise")


if __name__ == "__main__":
    main()
