"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from .. import answering
from ..conversations import conversation_ids
from ..http_errors import ApiError, refuse
from ..json_body import BoundedRoute
from ..protocol.tokens import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)
from ..service import Service
from .documented import posted, refusals


def router(service: Service) -> APIRouter:
    """The routes of ``service``."""
    routes = APIRouter(route_class=BoundedRoute, tags=["Tokens"])

    @routes.post("/tokenize", **posted(Tokenized))
    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        """The tokens of a prompt, or of a conversation."""
        service.name(body.model)
        model = service.opened()
        if (body.prompt is None) == (body.messages is None):
            raise refuse("either prompt or messages has to be there", "prompt")
        if body.messages is not None:
            found = await conversation_ids(
                service,
                body.messages,
                tools=body.tools,
                add_generation_prompt=body.add_generation_prompt,
                continue_final_message=body.continue_final_message,
                variables=body.chat_template_kwargs,
                add_special_tokens=body.add_special_tokens is True,
            )
            ids = found.ids
        else:
            special = body.add_special_tokens is not False
            ids = await service.reader.encode(body.prompt or "", model, special)
        texts = [service.texts.text_of(one) for one in ids] if body.return_token_strs else None
        answer = Tokenized(
            count=len(ids), max_model_len=model.max_model_len, tokens=ids, token_strs=texts
        )
        return answering.reply(request, body, answer)

    @routes.post("/detokenize", **posted(Detokenized))
    async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
        """The text of tokens."""
        service.name(body.model)
        vocab_size = service.opened().vocab_size
        if body.tokens and max(body.tokens) >= vocab_size:
            raise refuse(f"the model has the tokens 0 to {vocab_size - 1}", "tokens")
        text = await service.reader.decode(body.tokens)
        return answering.reply(request, body, Detokenized(prompt=text))

    @routes.get("/tokenizer_info", responses=refusals(401, 404, 503))
    async def tokenizer_info() -> TokenizerInfo:
        """Special tokens and the chat template; 404 for a model without a tokenizer."""
        model, tokenizer = service.opened(), service.words.tokenizer
        if tokenizer is None:
            raise ApiError(404, "this model has no tokenizer")
        special = tokenizer.special_tokens
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return TokenizerInfo(
            **{name: special.get(name) for name in names},
            chat_template=tokenizer.chat_template,
            model_max_length=model.max_model_len,
        )

    return routes
