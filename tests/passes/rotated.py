"""Families with rotary positions or routers of experts: the passes for them, and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.passes.manager import Pass
from graphopt.passes.raise_moe_router import raise_moe_router
from graphopt.passes.raise_outer_product import raise_outer_product
from graphopt.passes.raise_rope import RaiseRope
from graphopt.passes.remove_identities import RemoveIdentities
from graphopt.passes.share_common import ShareCommon
from graphopt.passes.sink_permutes import SinkPermutes


def passes() -> tuple[Pass, ...]:
    return (
        RemoveIdentities(),
        ShareCommon(),
        raise_outer_product(),
        SinkPermutes(),
        RemoveIdentities(),
        raise_moe_router(),
        RaiseRope(),
        RemoveIdentities(),
        ShareCommon(),
    )


@dataclass(frozen=True)
class Row:
    """What a family gives.

    Attributes:
        rotated: how many attention layers have rotary positions; all if None.
        tables: how many tables of cosines are computed.
        interleaved: whether pairs lie side by side.
        offset: where the rotated part of the queries begins.
        routers: how many routers there are.
        topk: how many choices are left that no router explains.
        moves: how many permutes of other than constants are left.
    """

    rotated: int | None = None
    tables: int = 1
    interleaved: bool = False
    offset: int = 0
    routers: int = 0
    topk: int = 0
    moves: int = 0


ROWS: Mapping[str, Row] = {
    "afmoe": Row(rotated=4, routers=4),
    "apertus": Row(),
    "arcee": Row(),
    "aria_text": Row(routers=2),
    "axk1": Row(routers=1, moves=4),
    "beam": Row(rotated=2, routers=2),
    "biogpt": Row(rotated=0, tables=0),
    "bitnet": Row(),
    "bloom": Row(rotated=0, tables=0),
    "codegen": Row(tables=0, interleaved=True),
    "cohere": Row(interleaved=True),
    "cohere2": Row(rotated=1, interleaved=True),
    "cohere2_moe": Row(rotated=3, interleaved=True, routers=4),
    "cohere_compass_text": Row(),
    "ctrl": Row(rotated=0, tables=0),
    "cwm": Row(),
    "deepseek_v2": Row(interleaved=True, offset=16, routers=1),
    "deepseek_v3": Row(routers=1, moves=4),
    "diffllama": Row(rotated=2),
    "dots1": Row(routers=2),
    "emu3": Row(),
    "ernie4_5": Row(interleaved=True),
    "ernie4_5_moe": Row(interleaved=True, routers=1),
    "exaone4": Row(rotated=3),
    "exaone_moe": Row(rotated=4, routers=4),
    "falcon": Row(),
    "flex_olmo": Row(routers=2),
    "flint": Row(rotated=1, routers=2),
    "fuyu": Row(),
    "gemma": Row(),
    "gemma2": Row(),
    "gemma3": Row(tables=2),
    "gemma3_text": Row(tables=2),
    "gemma3n_text": Row(rotated=5, tables=2, moves=24),
    "gemma4": Row(tables=2),
    "gemma4_text": Row(tables=2),
    "gemma4_unified_text": Row(tables=2),
    "glm": Row(interleaved=True),
    "glm4": Row(interleaved=True),
    "glm4_moe": Row(routers=1),
    "glm4_moe_lite": Row(routers=1, moves=4),
    "got_ocr2": Row(),
    "gpt-sw3": Row(rotated=0, tables=0),
    "gpt2": Row(rotated=0, tables=0),
    "gpt_bigcode": Row(rotated=0, tables=0),
    "gpt_neo": Row(rotated=0, tables=0),
    "gpt_neox": Row(),
    "gpt_neox_japanese": Row(),
    "gpt_oss": Row(routers=2),
    "gptj": Row(tables=0, interleaved=True),
    "granite": Row(),
    "granite_swa": Row(),
    "granitemoe": Row(routers=2),
    "granitemoe_swa": Row(routers=2),
    "granitemoeshared": Row(routers=2),
    "helium": Row(interleaved=True),
    "hrm_text": Row(),
    "hunyuan_v1_dense": Row(),
    "hunyuan_v1_moe": Row(routers=2),
    "hy_v3": Row(routers=1),
    "hyperclovax": Row(),
    "internlm3": Row(),
    "iquestcoder": Row(),
    "jais2": Row(),
    "kolibri1": Row(rotated=1, routers=2),
    "laguna": Row(routers=1),
    "lfm2": Row(),
    "llama": Row(),
    "llama4": Row(rotated=8, interleaved=True, topk=10, moves=10),
    "llama4_text": Row(rotated=8, interleaved=True, topk=10, moves=10),
    "mellum": Row(routers=2),
    "mimo_v2_flash": Row(tables=2, routers=2),
    "minicpm3": Row(offset=16),
    "minimax_m2": Row(routers=2),
    "minimax_m3_vl_text": Row(routers=2),
    "ministral": Row(),
    "ministral3": Row(),
    "mistral": Row(),
    "mixtral": Row(routers=2),
    "mllama": Row(),
    "modernbert-decoder": Row(tables=2),
    "moshi": Row(tables=2),
    "mpt": Row(rotated=0, tables=0),
    "nanochat": Row(),
    "nemotron": Row(),
    "olmo": Row(),
    "olmo2": Row(),
    "olmo3": Row(tables=2),
    "olmoe": Row(routers=2),
    "openai-gpt": Row(rotated=0, tables=0),
    "opt": Row(rotated=0, tables=0),
    "persimmon": Row(),
    "phi": Row(),
    "phi3": Row(),
    "phi4_multimodal": Row(),
    "phimoe": Row(),
    "qwen2": Row(),
    "qwen2_moe": Row(routers=2),
    "qwen3": Row(),
    "qwen3_moe": Row(routers=2),
    "seed_oss": Row(),
    "smollm3": Row(rotated=3),
    "solar_open": Row(routers=2),
    "stablelm": Row(),
    "starcoder2": Row(),
    "vaultgemma": Row(),
    "xglm": Row(rotated=0, tables=0),
    "youtu": Row(moves=4),
}
