"""Log-probabilities in the three shapes that clients know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..outputs import TokenLogprobs
from .token_texts import TokenTexts, shown

Row = TokenLogprobs | None


def legacy(
    rows: Sequence[Row],
    token_ids: Sequence[int],
    offsets: Sequence[int],
    most: int,
    texts: TokenTexts,
    as_ids: bool = False,
) -> dict[str, Any]:
    """OpenAI's first form, of ``/v1/completions``: four lists.

    Args:
        rows: one for each token; None for the first of a prompt.
        token_ids: the tokens.
        offsets: where in the text each begins.
        most: how many of the likeliest tokens to show; the chosen one comes on top.
        texts: shows tokens.
        as_ids: show them as ``token_id:7``.
    """
    top = [None if row is None else _by_text(row, most, texts, as_ids) for row in rows]
    return {
        "tokens": [texts.text_of(token, as_ids) for token in token_ids],
        "token_logprobs": [None if row is None else shown(row.logprob) for row in rows],
        "top_logprobs": top,
        "text_offset": list(offsets),
    }


def _by_text(row: TokenLogprobs, most: int, texts: TokenTexts, as_ids: bool) -> dict[str, float]:
    found = {texts.text_of(token, as_ids): shown(logprob) for token, logprob in row.top[:most]}
    found.setdefault(texts.text_of(row.token_id, as_ids), shown(row.logprob))
    return found


def chat(
    rows: Sequence[TokenLogprobs], most: int, texts: TokenTexts, as_ids: bool = False
) -> list[dict[str, Any]]:
    """OpenAI's second form, of ``/v1/chat/completions``: one object for each token."""
    return [
        {
            **_token(row.token_id, row.logprob, texts, as_ids),
            "top_logprobs": [_token(*one, texts, as_ids) for one in row.top[:most]],
        }
        for row in rows
    ]


def _token(token: int, logprob: float, texts: TokenTexts, as_ids: bool) -> dict[str, Any]:
    return {
        "token": texts.text_of(token, as_ids),
        "logprob": shown(logprob),
        "bytes": list(texts.bytes_of(token)),
    }


def of_prompt(rows: Sequence[Row], texts: TokenTexts) -> list[dict[str, Any] | None]:
    """The form that vLLM has for a prompt: objects by token id, None for the first token."""
    return [None if row is None else _by_id(row, texts) for row in rows]


def _by_id(row: TokenLogprobs, texts: TokenTexts) -> dict[str, Any]:
    found = {}
    for place, (token, logprob) in enumerate(row.top, 1):
        found[str(token)] = _ranked(token, logprob, place, texts)
    found[str(row.token_id)] = _ranked(row.token_id, row.logprob, row.rank, texts)
    return found


def _ranked(token: int, logprob: float, rank: int, texts: TokenTexts) -> dict[str, Any]:
    return {"logprob": shown(logprob), "rank": rank, "decoded_token": texts.text_of(token)}
