"""How routes are described in the OpenAPI document: what they answer, and how they refuse."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..protocol.common import ErrorReply

_WHY = {
    400: "The request is not valid; `error.param` names the field.",
    401: "No API key that is valid.",
    404: "There is no such model.",
    408: "The body took too long to arrive.",
    413: "The body is too long.",
    415: "The body is not declared to be JSON.",
    429: "Too many requests; `Retry-After` says when to come again.",
    500: "The engine failed.",
    503: "The model is being loaded, the queue is too slow, or the server stops.",
}
_RETRY = {"Retry-After": {"schema": {"type": "string"}, "description": "In seconds."}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that are no success."""
    return {
        status: {
            "model": ErrorReply,
            "description": _WHY[status],
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def posted(model: type[BaseModel]) -> dict[str, Any]:
    """A route that takes a body, and answers with ``model``."""
    return {
        "response_model": model,
        "responses": refusals(400, 401, 404, 408, 413, 415, 429, 500, 503),
    }


def generated(model: type[BaseModel], chunk: type[BaseModel] | None = None) -> dict[str, Any]:
    """A route that answers with ``model``, or with a stream of events.

    Args:
        model: the whole answer.
        chunk: what the data of an event is, besides ``[DONE]`` at the end; None for events that
            are named by their type.
    """
    found = posted(model)
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    if chunk is not None:
        data["contentSchema"] = {"$ref": f"#/components/schemas/{chunk.__name__}"}
    event = {
        "type": "object",
        "description": "One event of the stream.",
        "properties": {"data": data, "event": {"type": "string"}},
        "required": ["data"],
    }
    found["responses"][200] = {
        "description": "The answer; a stream of events if `stream` is true.",
        "content": {"text/event-stream": {"schema": event}},
    }
    return found


def component(model: type[BaseModel]) -> dict[str, Any]:
    """The schemas of a model that no route names by itself, by name."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = schema.pop("$defs", {})
    return {model.__name__: schema, **inner}
