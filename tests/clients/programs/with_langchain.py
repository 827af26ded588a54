"""Talks to a server through langchain-openai: ``python with_langchain.py BASE_URL KEY MODEL``."""

from __future__ import annotations

import sys
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel


@tool
def convert(unit: Literal["metres", "miles"]) -> str:
    """Convert the distance to a unit."""
    return unit


class Distance(BaseModel):
    """How far."""

    unit: Literal["metres", "miles"]


def demand(truth: object, what: object) -> None:
    """Stop unless something holds."""
    if not truth:
        raise SystemExit(f"not so: {what}")


def main() -> None:
    """A chain's usual ways: invoke, stream, batch, a bound tool, a completion."""
    base_url, key, model = sys.argv[1:4]
    chat = ChatOpenAI(
        base_url=base_url, api_key=key, model=model, temperature=0, max_tokens=12, max_retries=0
    )
    messages = [SystemMessage("You write Python."), HumanMessage("def read(")]
    whole = chat.invoke(messages)
    demand(whole.usage_metadata and whole.usage_metadata["output_tokens"] <= 12, whole)
    pieces = [chunk.content for chunk in chat.stream(messages)]
    demand("".join(map(str, pieces)) == whole.content, (pieces, whole.content))
    demand(len(chat.batch([messages] * 3)) == 3, "a batch of three")
    longer = chat.model_copy(update={"max_tokens": 128})
    calls = longer.bind_tools([convert], tool_choice="convert").invoke(messages).tool_calls
    demand([call["name"] for call in calls] == ["convert"], calls)
    demand(calls[0]["args"]["unit"] in ("metres", "miles"), calls)
    shaped = longer.with_structured_output(Distance, method="json_schema").invoke(messages)
    demand(shaped.unit in ("metres", "miles"), shaped)
    completion = OpenAI(base_url=base_url, api_key=key, model=model, max_tokens=6, max_retries=0)
    demand(isinstance(completion.invoke("import "), str), "a completion")
    print("langchain-openai: fine")


if __name__ == "__main__":
    main()
