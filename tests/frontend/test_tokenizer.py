import base64
import io
import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from graphopt.errors import CheckpointError, GraphoptError, UnsupportedError
from graphopt.frontend.tokenizer import export_tokenizer

TEXT = [
    "The quick brown fox jumps over the lazy dog, again and again and again.",
    "def export(path: str) -> bool:\n    return path is not None",
    "Ein naïver Café-Besitzer; “quotes” & straße",
    "Привет, мир. Как дела? こんにちは世界",
    "0123456789 3.14159",
] * 8


@pytest.fixture(scope="module")
def byte_level():
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TEXT, vocab_size=320, special_tokens=["<|end|>", "<|start|>"], show_progress=False
    )
    return tokenizer


def sentencepiece(**options):
    out = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=out,
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def llama_model():
    return sentencepiece()


def write(folder, model_type="llama", **files):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "tokenizer"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoint"
    path.mkdir()
    return path


def exported(out):
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def settings_of(out):
    return json.loads((out / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("files", [{}, {"tokenizer_config": {"tokenizer_class": "X"}}])
def test_no_vocabulary_is_no_tokenizer(folder, out, files):
    write(folder, **files)
    assert export_tokenizer(folder, out) is False
    assert not out.exists()


def test_a_fast_tokenizer_is_copied_byte_for_byte(folder, out, byte_level):
    config = {"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write(folder, tokenizer_config=config)
    byte_level.save(str(folder / "tokenizer.json"))
    assert export_tokenizer(folder, out) is True
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert settings_of(out) == config
    assert sorted(file.name for file in out.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_only_tokenizer_json_is_enough(folder, out, byte_level):
    write(folder)
    byte_level.save(str(folder / "tokenizer.json"))
    assert export_tokenizer(folder, out) is True
    assert settings_of(out) == {}


def test_truncation_and_padding_are_taken_out(folder, out, byte_level):
    tokenizer = Tokenizer.from_str(byte_level.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8, pad_id=0, pad_token="<|end|>")
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder)
    export_tokenizer(folder, out)
    for text in TEXT[:5]:
        assert exported(out).encode(text).ids == byte_level.encode(text).ids


def test_settings_that_change_the_tokens_are_built_in(folder, out, byte_level):
    write(
        folder,
        tokenizer_config={
            "bos_token": "<|start|>",
            "eos_token": "<|end|>",
            "added_tokens_decoder": {
                "320": {"content": "<|tool|>", "special": True, "normalized": False}
            },
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    byte_level.save(str(folder / "tokenizer.json"))
    export_tokenizer(folder, out)
    tokenizer = exported(out)
    reference = AutoTokenizer.from_pretrained(folder)
    for text in (*TEXT[:5], "a<|tool|>b", "<|start|>x<|end|>"):
        assert tokenizer.encode(text).ids == reference(text).input_ids
    assert tokenizer.encode("a<|tool|>b").tokens == ["a", "<|tool|>", "b"]
    assert byte_level.token_to_id("<|tool|>") is None


def test_special_tokens_and_the_template_come_from_wherever_they_are(folder, out, byte_level):
    write(
        folder,
        tokenizer_config={
            "eos_token": {"__type": "AddedToken", "content": "<|end|>"},
            "pad_token": None,
            "chat_template": [{"name": "default", "template": "in the list"}],
            "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]},
            "name_or_path": "/home/someone/model",
            "model_max_length": 64,
        },
        special_tokens_map={"bos_token": {"content": "<|start|>"}, "eos_token": "<|other|>"},
    )
    byte_level.save(str(folder / "tokenizer.json"))
    export_tokenizer(folder, out)
    assert settings_of(out) == {
        "bos_token": "<|start|>",
        "eos_token": "<|end|>",
        "pad_token": None,
        "chat_template": "in the list",
        "model_max_length": 64,
    }
    assert json.loads((out / "special_tokens_map.json").read_text())["eos_token"] == "<|other|>"
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    export_tokenizer(folder, out)
    assert settings_of(out)["chat_template"] == "{{ messages }}"


def test_what_transformers_saves_is_read_back_as_it_was(folder, out, byte_level):
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(byte_level.to_str()),
        bos_token="<|start|>",
        eos_token="<|end|>",
        additional_special_tokens=[AddedToken("<|tool|>", lstrip=True, rstrip=True)],
    )
    fast.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    fast.save_pretrained(folder)
    write(folder)
    export_tokenizer(folder, out)
    for text in (*TEXT[:5], "a <|tool|> b<|end|>"):
        assert exported(out).encode(text).ids == fast(text).input_ids
    assert settings_of(out)["chat_template"] == fast.chat_template
    assert settings_of(out)["bos_token"] == "<|start|>"


def test_a_vocabulary_and_merges_are_converted(folder, out, byte_level):
    byte_level.save_model(str(folder))
    write(folder, "gpt2")
    assert export_tokenizer(folder, out) is True
    for text in TEXT[:5]:
        assert exported(out).encode(text).ids == byte_level.encode(text).ids
    assert settings_of(out)["eos_token"] == "<|endoftext|>"


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_converted_vocabularies_agree_on_any_text(tmp_path_factory, byte_level, text):
    out = tmp_path_factory.getbasetemp() / "converted"
    if not out.exists():
        folder = tmp_path_factory.mktemp("source")
        byte_level.save_model(str(folder))
        export_tokenizer(write(folder, "gpt2"), out)
    converted = exported(out)
    ids = byte_level.encode(text).ids
    assert converted.encode(text).ids == ids
    assert converted.decode(ids, skip_special_tokens=False) == byte_level.decode(
        ids, skip_special_tokens=False
    )


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("llama", {}),
        ("llama", {"tokenizer_class": "LlamaTokenizer", "legacy": True}),
        ("mistral", {"tokenizer_class": "LlamaTokenizer", "legacy": False}),
    ],
)
def test_sentencepiece_is_converted(folder, out, llama_model, model_type, config):
    """Without settings transformers leaves the first space out; the comparison finds that."""
    (folder / "tokenizer.model").write_bytes(llama_model)
    write(folder, model_type, **({"tokenizer_config": config} if config else {}))
    assert export_tokenizer(folder, out) is True
    original = SentencePieceProcessor(model_proto=llama_model)
    for text in TEXT[:5]:
        got = exported(out).encode(text, add_special_tokens=False)
        assert got.ids == original.encode(text)
        assert exported(out).decode(got.ids) == text
    assert settings_of(out)["eos_token"] == "</s>"


def test_sentencepiece_with_other_rules_is_converted(folder, out):
    model = sentencepiece(add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3)
    (folder / "tokenizer.model").write_bytes(model)
    write(
        folder,
        "gemma",
        tokenizer_config={
            "tokenizer_class": "GemmaTokenizer",
            "add_bos_token": True,
            "bos_token": "<s>",
            "eos_token": "</s>",
        },
    )
    export_tokenizer(folder, out)
    original = SentencePieceProcessor(model_proto=model)
    for text in TEXT[:5]:
        assert exported(out).encode(text).ids == [2, *original.encode(text)]


def test_a_conversion_that_splits_otherwise_is_refused(folder, out):
    """Without the prefix that the class puts first, every text would begin with a wrong token."""
    (folder / "tokenizer.model").write_bytes(sentencepiece(add_dummy_prefix=False))
    write(folder, tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    with pytest.raises(CheckpointError, match="other tokens than the SentencePiece model") as error:
        export_tokenizer(folder, out)
    assert (error.value.got or "").startswith("['▁'")
    assert (error.value.expected or "").startswith("['<0x48>'")
    assert not (out / "tokenizer.json").exists()


def test_tiktoken_is_converted(folder, out):
    ranks = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell", b"hello", b" w"]
    lines = (f"{base64.b64encode(rank).decode()} {index}" for index, rank in enumerate(ranks))
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")
    write(folder, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"})
    assert export_tokenizer(folder, out) is True
    encoding = exported(out).encode("hello world")
    assert encoding.ids == [259, 260, *b"orld"]
    assert exported(out).decode(encoding.ids) == "hello world"


def test_tokenizer_code_of_the_checkpoint_never_runs(folder, out, byte_level, tmp_path):
    code = f"from pathlib import Path\nPath(r'{tmp_path / 'ran'}').write_text('ran')\n"
    (folder / "tokenization_x.py").write_text(code)
    (folder / "qwen.tiktoken").write_text("AA== 0\n")
    auto_map = {"AutoTokenizer": ["tokenization_x.T", None]}
    for config in ({"auto_map": auto_map}, {"auto_map": auto_map, "tokenizer_class": "T"}):
        write(folder, tokenizer_config=config)
        with pytest.raises((CheckpointError, UnsupportedError)) as caught:
            export_tokenizer(folder, out)
        assert caught.value.next is not None
    byte_level.save(str(folder / "tokenizer.json"))
    assert export_tokenizer(folder, out) is True
    assert "auto_map" not in settings_of(out)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize("text", ["", "{", "[]", "version https://git-lfs.github.com/spec/v1\n"])
def test_damaged_files_are_named(folder, out, byte_level, file, text):
    write(folder)
    byte_level.save(str(folder / "tokenizer.json"))
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        export_tokenizer(folder, out)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"])
def test_damaged_vocabularies_are_an_error_of_ours(folder, out, name):
    write(folder)
    (folder / name).write_bytes(b"\0garbage\xff")
    with pytest.raises(GraphoptError):
        export_tokenizer(folder, out)


def test_damage_anywhere_in_tokenizer_json_is_an_error_of_ours(folder, out, byte_level):
    write(folder, tokenizer_config={"eos_token": "<|end|>"})
    raw = byte_level.to_str().encode()
    rng = random.Random(0)
    refused = 0
    for _ in range(120):
        damaged = bytearray(raw)
        if rng.random() < 0.3:
            damaged = damaged[: rng.randrange(len(raw))]
        else:
            damaged[rng.randrange(len(raw))] = rng.choice(b'0123456789{}[],:"ntf')
        (folder / "tokenizer.json").write_bytes(damaged)
        try:
            export_tokenizer(folder, out)
        except CheckpointError:
            refused += 1
    assert refused > 60


def test_the_result_is_used_without_transformers(folder, out, byte_level):
    byte_level.save_model(str(folder))
    export_tokenizer(write(folder, "gpt2"), out)
    code = (
        "import sys, tokenizers\n"
        f"t = tokenizers.Tokenizer.from_file({str(out / 'tokenizer.json')!r})\n"
        "print(t.encode('again').ids, 'transformers' in sys.modules)"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == f"{byte_level.encode('again').ids} False"
