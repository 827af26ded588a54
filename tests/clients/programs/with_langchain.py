"""Talks to a server through langchain-openai: ``python with_langchain.py BASE_URL KEY MODEL``."""

from __future__ import annotations

import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI


@tool
def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


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
    bound = chat.bind(max_tokens=128).bind_tools([count_words], tool_choice="count_words")
    calls = bound.invoke(messages).tool_calls
    demand([call["name"] for call in calls] == ["count_words"], calls)
    completion = OpenAI(base_url=base_url, api_key=key, model=model, max_tokens=6, max_retries=0)
    demand(isinstance(completion.invoke("import "), str), "a completion")
    print("langchain-openai: fine")


if __name__ == "__main__":
    main()
