"""Asks a server for vectors as users of the openai package do: ``... BASE_URL KEY DIMENSIONS``.

Runs unchanged with 2.x and 3.x of the package, and imports nothing else but the standard library.
It ends with a line that says which version talked, and with an exception if an answer is not what
the package's own types promise.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import sys
from typing import Any

import openai

TEXTS = ["import os", "def read(self, size=-1):", "", "Return the number of items.", "x" * 100]


def demand(truth: object, what: object) -> None:
    """Stop unless something holds."""
    if not truth:
        raise SystemExit(f"not so: {what}")


def near(one: list[float], other: list[float]) -> bool:
    """Whether two vectors are the same."""
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )


def forms(client: Any, model: str, size: int) -> None:
    """One text and many, as numbers and as bytes, whole and cut."""
    many = client.embeddings.create(model=model, input=TEXTS)
    demand([row.index for row in many.data] == list(range(len(TEXTS))), many.data)
    demand(all(len(row.embedding) == size for row in many.data), size)
    demand(many.usage.prompt_tokens == many.usage.total_tokens > 0, many.usage)
    demand(many.model == model and many.object == "list", many)
    for text, row in zip(TEXTS, many.data, strict=True):
        (one,) = client.embeddings.create(model=model, input=text, user="me").data
        demand(near(one.embedding, row.embedding), text)
    numbers = client.embeddings.create(model=model, input=TEXTS[1], encoding_format="float")
    demand(near(numbers.data[0].embedding, many.data[1].embedding), "numbers")
    raw = client.embeddings.create(model=model, input=TEXTS[1], encoding_format="base64")
    read = struct.unpack(f"<{size}f", base64.b64decode(raw.data[0].embedding))
    demand(list(read) == numbers.data[0].embedding, "bytes")
    (short,) = client.embeddings.create(model=model, input=TEXTS[1], dimensions=4).data
    kept = many.data[1].embedding[:4]
    length = math.sqrt(sum(one * one for one in kept))
    demand(near(short.embedding, [one / length for one in kept]), short)


def tokens(client: Any, model: str) -> None:
    """Token ids, alone and in lists."""
    (one,) = client.embeddings.create(model=model, input=[5, 6, 7]).data
    two = client.embeddings.create(model=model, input=[[8, 9], [5, 6, 7]])
    demand(near(two.data[1].embedding, one.embedding), two)
    demand(two.usage.prompt_tokens == 5, two.usage)


def errors(client: Any, model: str, size: int) -> None:
    """What is wrong has the right class, and says what."""
    wrong: tuple[dict[str, Any], ...] = (
        {"input": []},
        {"input": ["a"] * 2049},
        {"input": [10**9]},
        {"input": "a " * 100_000},
        {"input": "a", "dimensions": size + 1},
        {"input": "a", "dimensions": -1},
        {"input": "a", "encoding_format": "int8"},
    )
    for body in wrong:
        try:
            client.embeddings.create(model=model, **body)
        except openai.BadRequestError as error:
            demand(error.body and len(str(error)) < 2000, error)
        else:
            demand(False, f"{str(body)[:60]} was answered")
    try:
        client.embeddings.create(model="no-such-model", input="a")
    except openai.NotFoundError:
        pass
    else:
        demand(False, "a model that is not there answered")
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a"}])
    except openai.BadRequestError as error:
        demand("/v1/embeddings" in str(error), error)
    else:
        demand(False, "a model that embeds has talked")


async def many(base_url: str, key: str, model: str) -> None:
    """Requests at once, one of them left in the middle."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:

        async def one(number: int) -> list[float]:
            found = await client.embeddings.create(model=model, input=[f"x = {number}"] * 16)
            first: list[float] = found.data[0].embedding
            demand(all(near(row.embedding, first) for row in found.data), number)
            return first

        left = asyncio.create_task(one(99))
        await asyncio.sleep(0.01)
        left.cancel()
        found = await asyncio.gather(*(one(number) for number in range(16)))
        demand(not near(found[0], found[1]), "two texts have one vector")


def main() -> None:
    """Everything, in order."""
    base_url, key, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        model = client.models.list().data[0].id
        forms(client, model, size)
        tokens(client, model)
        errors(client, model, size)
    asyncio.run(many(base_url, key, model))
    print(f"openai {openai.__version__}: vectors are as its types promise")


if __name__ == "__main__":
    main()
