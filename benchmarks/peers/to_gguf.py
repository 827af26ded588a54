"""Convert a llama, qwen2 or qwen3 checkpoint to GGUF.

    python -m benchmarks.peers.to_gguf CHECKPOINT OUTPUT.gguf --type q8_0

Every matrix gets the same type, the output head too (llama.cpp's own tool keeps that one wider);
vectors stay float32. Needs numpy and gguf, nothing else: it runs in llama.cpp's environment.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
# What the gguf package calls the type of a matrix, and of a file full of them.
TYPES = MappingProxyType(
    {
        "f32": ("F32", "ALL_F32"),
        "f16": ("F16", "MOSTLY_F16"),
        "bf16": ("BF16", "MOSTLY_BF16"),
        "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
        "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
    }
)
# What follows `model.layers.N.` in a checkpoint, and `blk.N.` in GGUF.
LAYER_NAMES = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
)
TOP_NAMES = MappingProxyType(
    {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
)


def gguf_name(name: str) -> str:
    """The GGUF name of a checkpoint's tensor.

    Raises:
        KeyError: there is none.
    """
    stem, _, kind = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{kind}"
    prefix, _, rest = stem.removeprefix("model.").partition(".")
    layer, _, suffix = rest.partition(".")
    if prefix != "layers":
        raise KeyError(name)
    return f"blk.{layer}.{LAYER_NAMES[suffix]}.{kind}"


def interleave_rope(rows: Floats, heads: int) -> Floats:
    """Reorder the rows of a query or key projection for the llama architecture.

    transformers rotates dimension i with i + D/2; llama.cpp's llama rotates neighbours.
    """
    count = rows.shape[0]
    split = rows.reshape(heads, 2, count // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def llama3_factors(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> Floats:
    """What each frequency is divided by, in the `llama3` scaling of rotary embeddings."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    context = scaling["original_max_position_embeddings"]
    factors = []
    for index in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (index / head_dim)
        blend = min(max((context / wavelength - low) / (high - low), 0.0), 1.0)
        factors.append(1.0 / ((1.0 - blend) / scaling["factor"] + blend))
    return np.array(factors, dtype=np.float32)


def tensors_of(checkpoint: Path) -> Iterator[tuple[str, Floats]]:
    """Every tensor of a bfloat16 checkpoint, by name, as float32.

    Raises:
        ValueError: a tensor has another type.
    """
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        data = np.memmap(file, dtype=np.uint8, mode="r", offset=8 + size)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"{name} is {entry['dtype']}, and only BF16 is read")
            start, stop = entry["data_offsets"]
            high = data[start:stop].view(np.uint16).astype(np.uint32) << 16
            yield name, high.view(np.float32).reshape(entry["shape"])


def write_metadata(writer: Any, config: Mapping[str, Any], name: str) -> None:
    """Write what llama.cpp needs to know of the architecture."""
    head_dim = head_size(config)
    theta, _ = rope_of(config)
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(config["vocab_size"])


def head_size(config: Mapping[str, Any]) -> int:
    """Elements of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_of(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Base and scaling of the rotary embedding.

    Raises:
        ValueError: the scaling is unknown.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise ValueError(f"unknown scaling of rotary embeddings: {kind}")
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0), dict(rope)


def write_tokenizer(writer: Any, checkpoint: Path, vocab_size: int) -> None:
    """Copy a byte-level BPE out of tokenizer.json.

    Raises:
        ValueError: the tokenizer is of another kind.
    """
    from gguf import TokenType

    data = json.loads((checkpoint / "tokenizer.json").read_text())
    model = data["model"]
    if model["type"] != "BPE":
        raise ValueError(f"the tokenizer is a {model['type']}, and only a BPE is known")
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    for token, index in model["vocab"].items():
        unused = token.startswith("<|unused_")
        tokens[index] = token
        types[index] = int(TokenType.UNUSED if unused else TokenType.NORMAL)
    for added in data.get("added_tokens", []):
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(
        [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    )
    writer.add_add_bos_token(False)
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    end = settings.get("eos_token")
    end = end["content"] if isinstance(end, dict) else end
    if end in tokens:
        writer.add_eos_token_id(tokens.index(end))


def encode(values: Floats, kind: str) -> tuple[npt.NDArray[Any], Any]:
    """A tensor in type `kind`, and what gguf calls the type.

    A vector stays in float32, and rows that blocks do not divide are float16.
    """
    import gguf

    types = gguf.GGMLQuantizationType
    if values.ndim == 1:
        return values, types.F32
    block, _ = gguf.GGML_QUANT_SIZES[types[kind]]
    used = types.F16 if values.shape[-1] % block else types[kind]
    return gguf.quants.quantize(values, used), used


def convert(checkpoint: Path, output: Path, kind: str) -> None:
    """Write `checkpoint` as the GGUF file `output`, with matrices of type `kind`.

    Raises:
        ValueError: the architecture or the type is unknown.
    """
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    architecture = config["model_type"]
    if architecture not in ARCHITECTURES or kind not in TYPES:
        raise ValueError(f"{architecture} as {kind} cannot be converted")
    matrix_type, file_type = TYPES[kind]
    writer = gguf.GGUFWriter(output, architecture)
    write_metadata(writer, config, checkpoint.name)
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(writer, checkpoint, config["vocab_size"])
    theta, scaling = rope_of(config)
    if scaling.get("rope_type") == "llama3":
        factors = llama3_factors(head_size(config), theta, scaling)
        writer.add_tensor("rope_freqs.weight", factors)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in tensors_of(checkpoint):
        target = gguf_name(name)
        if target == "output.weight" and config.get("tie_word_embeddings"):
            continue
        module = name.split(".")[-2]
        if architecture == "llama" and module in heads:
            tensor = interleave_rope(tensor, heads[module])
        data, used = encode(tensor, matrix_type)
        writer.add_tensor(target, data, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="A checkpoint as GGUF")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--type", choices=sorted(TYPES), default="bf16")
    options = parser.parse_args()
    convert(options.checkpoint, options.output, options.type)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
