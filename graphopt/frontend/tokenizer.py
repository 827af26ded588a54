"""Write a checkpoint's tokenizer so that serving needs the ``tokenizers`` library and no other.

before:  tokenizer.json, or a SentencePiece, tiktoken or vocabulary-and-merges file, with settings
         and a chat template in several places
after:   tokenizer.json, tokenizer_config.json with the chat template in it, special_tokens_map.json

What transformers adds when it loads, such as tokens that only tokenizer_config.json names, is built
into tokenizer.json, and truncation and padding are taken out: a server that silently cuts prompts
would be wrong. A conversion is compared with its original.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import CheckpointError, GraphoptError, UnsupportedError

from .chat_template import find_chat_template
from .json_file import read_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FAST = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
_VOCABULARIES = ("vocab.json", "vocab.txt", "tekken.json")
_VOCABULARY_SUFFIXES = (".model", ".tiktoken")
_NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Settings that point to files of the machine it was saved on, or to code that is never run.
_DROPPED = ("auto_map", "name_or_path", "tokenizer_file", "vocab_file", "merges_file")
# Scripts, spaces, digits, code, bytes outside every vocabulary. None starts with a space: there
# transformers differs from SentencePiece on purpose.
_SAMPLES = (
    "Hello, world! It's 9:41.",
    "def f(x):\n    return x ** 2  # two  spaces\n",
    "naïve café, “quotes” and straße",
    "Привет, мир. 你好，世界。こんにちは",
    "1234567890 3.14159 0x1F",
    "🎉👩‍💻 \u200b",
    "a\tb\r\nc\n\n\nd",
    "",
)
_MOST_TOKENS_TRIED = 64


def export_tokenizer(checkpoint_path: Path, out_dir: Path) -> bool:
    """Writes the tokenizer of the checkpoint in ``checkpoint_path`` into the folder ``out_dir``.

    Returns:
        Whether the checkpoint has a tokenizer; if not, nothing is written.

    Raises:
        CheckpointError: damaged files, or a conversion that does not give the original's tokens.
        UnsupportedError: a tokenizer that is code of the checkpoint.
    """
    folder = Path(checkpoint_path).resolve()
    if not _has_tokenizer(folder):
        return False
    config = read_object(folder / CONFIG) if (folder / CONFIG).exists() else {}
    special = read_object(folder / SPECIAL) if (folder / SPECIAL).exists() else {}
    settings = {key: value for key, value in config.items() if key not in _DROPPED}
    for key, value in {**special, **config}.items():
        if key.removesuffix("_token") in _NAMED_TOKENS:
            settings[key] = _content(value)
    template = find_chat_template(folder, config)
    if template is not None:
        settings["chat_template"] = template
    else:
        settings.pop("chat_template", None)

    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / FAST
    if (folder / FAST).exists():
        _export_fast(folder, target)
    else:
        tokenizer, tokens = _convert(folder, config)
        settings.update({key: value for key, value in tokens.items() if settings.get(key) is None})
        _save(tokenizer, target)
    _write_json(out_dir / CONFIG, settings)
    if special:
        _write_json(out_dir / SPECIAL, special)
    return True


def _has_tokenizer(folder: Path) -> bool:
    """Whether there is a file that holds a vocabulary."""
    if (folder / FAST).exists() or any((folder / name).exists() for name in _VOCABULARIES):
        return True
    return any(entry.suffix in _VOCABULARY_SUFFIXES for entry in folder.iterdir())


def _export_fast(folder: Path, target: Path) -> None:
    """Copies tokenizer.json as it is, unless the settings beside it change what it does."""
    from transformers import PreTrainedTokenizerFast

    file = folder / FAST
    raw = _read(file)
    loaded = _load(PreTrainedTokenizerFast.from_pretrained, folder)
    configured: Tokenizer = loaded.backend_tokenizer
    limited = raw.truncation is not None or raw.padding is not None
    configured.no_truncation()
    configured.no_padding()
    raw.no_truncation()
    raw.no_padding()
    same = _first_difference(_samples(configured), raw, configured) is None
    if same and raw.get_vocab_size() == configured.get_vocab_size() and not limited:
        shutil.copyfile(file, target)
    else:
        _save(configured, target)


def _convert(folder: Path, config: dict[str, Any]) -> tuple[Tokenizer, dict[str, str]]:
    """The converted tokenizer and its named special tokens, such as ``bos_token``.

    transformers picks a class from the settings beside the vocabulary, and without any it may pick
    a wrong one, so the result is held against SentencePiece itself where the file is of that kind.
    """
    from transformers import AutoTokenizer, LlamaTokenizer

    if config.get("auto_map") and not config.get("tokenizer_class"):
        raise UnsupportedError(
            "the tokenizer is code of the checkpoint, which graphopt never runs",
            where=str(folder / CONFIG),
            got=f"auto_map {config['auto_map']}",
            expected=FAST,
            next="save it once as a fast tokenizer, in an environment where you trust its code",
        )
    original = _sentencepiece(folder)
    problem: GraphoptError | None = None
    # Without settings, a SentencePiece file is most often one that Llama's class understands.
    classes: list[Any] = [AutoTokenizer, *([] if original is None else [LlamaTokenizer])]
    for choice in classes:
        try:
            loaded = _load(choice.from_pretrained, folder)
            tokenizer: Tokenizer = loaded.backend_tokenizer
            tokenizer.no_truncation()
            tokenizer.no_padding()
            if original is not None:
                _compare_pieces(original, tokenizer, folder)
        except GraphoptError as error:
            problem = problem or error
            continue
        named = {key: str(value) for key, value in loaded.special_tokens_map.items() if value}
        return tokenizer, {
            key: value
            for key, value in named.items()
            if key.removesuffix("_token") in _NAMED_TOKENS
        }
    if problem is None:
        raise CheckpointError("no tokenizer could be made", where=str(folder))
    raise problem


def _load(load: Callable[..., Any], folder: Path) -> Any:
    """The tokenizer object of transformers for the folder, with no code and no network."""
    try:
        loaded = load(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(
            "transformers cannot load the tokenizer",
            where=str(folder),
            got=str(error)[:300] or type(error).__name__,
            next="save it with transformers as a fast tokenizer; SentencePiece and tiktoken files "
            "need `pip install graphopt[slow-tokenizers]`",
        ) from error
    if getattr(loaded, "backend_tokenizer", None) is None:
        raise UnsupportedError(
            "the tokenizer has no form that the tokenizers library can run",
            where=str(folder),
            got=type(loaded).__name__,
            expected=FAST,
        )
    return loaded


def _read(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise CheckpointError(
            f"{file.name} is not a tokenizer",
            where=str(file),
            got=str(error)[:300],
            next="copy or download it again: it is damaged, or newer than the tokenizers library",
        ) from error


def _save(tokenizer: Tokenizer, target: Path) -> None:
    """Writes a tokenizer and checks that reading it back gives the same tokens."""
    tokenizer.save(str(target))
    difference = _first_difference(_samples(tokenizer), tokenizer, _read(target))
    if difference is not None:
        raise CheckpointError(
            "the tokenizer changes when it is saved",
            where=str(target),
            got=f"other tokens for {difference!r}",
        )


def _samples(tokenizer: Tokenizer) -> list[str]:
    """Texts to compare on: fixed ones, and each added token inside a text."""
    added = tokenizer.get_added_tokens_decoder()
    tokens = [added[index].content for index in sorted(added)[-_MOST_TOKENS_TRIED:]]
    return [*_SAMPLES, *(f"a{token} b" for token in tokens)]


def _first_difference(texts: Sequence[str], left: Tokenizer, right: Tokenizer) -> str | None:
    """The first text that two tokenizers encode or decode differently."""
    for text in texts:
        ids = left.encode(text).ids
        if ids != right.encode(text).ids or left.decode(ids) != right.decode(ids):
            return text
    return None


def _sentencepiece(folder: Path) -> Any:
    """The SentencePiece processor of the folder's model file, or None if it has no such file."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        return None
    for file in sorted(folder.glob("*.model")):
        try:
            return SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError):
            continue  # a tiktoken file may have the same name
    return None


def _compare_pieces(original: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Raises if the conversion splits a text otherwise than SentencePiece itself."""
    for text in _SAMPLES:
        expected = original.encode(text, out_type=str)
        got = tokenizer.encode(text, add_special_tokens=False).tokens
        if got != expected:
            raise CheckpointError(
                "the converted tokenizer gives other tokens than the SentencePiece model",
                where=str(folder),
                got=f"{got[:12]} for {text!r}",
                expected=expected[:12],
                next="add tokenizer_config.json with the tokenizer_class it was made for, or a "
                "tokenizer.json",
            )


def _content(token: object) -> object:
    """A special token's text; old files describe it by an object."""
    return token.get("content") if isinstance(token, dict) else token


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
