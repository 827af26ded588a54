"""Asks a server for vectors through langchain-openai: ``... BASE_URL KEY MODEL``."""

from __future__ import annotations

import math
import sys

from langchain_openai import OpenAIEmbeddings


def demand(truth: object, what: object) -> None:
    """Stop unless something holds."""
    if not truth:
        raise SystemExit(f"not so: {what}")


def main() -> None:
    """Documents and a question, as texts: token ids would be those of another tokenizer."""
    base_url, key, model = sys.argv[1:4]
    made = OpenAIEmbeddings(
        base_url=base_url, api_key=key, model=model, check_embedding_ctx_length=False, chunk_size=7
    )
    texts = [f"text {number}" for number in range(20)]
    vectors = made.embed_documents(texts)
    question = made.embed_query(texts[13])
    demand(len(vectors) == 20, len(vectors))
    near = min(range(20), key=lambda at: math.dist(vectors[at], question))
    demand(near == 13, near)
    shorter = OpenAIEmbeddings(
        base_url=base_url, api_key=key, model=model, check_embedding_ctx_length=False, dimensions=4
    )
    demand(len(shorter.embed_query("a")) == 4, "four dimensions")
    print("langchain-openai: fine")


if __name__ == "__main__":
    main()
