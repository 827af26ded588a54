"""Loading, encoding, decoding and naming, against the library and transformers."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from graphopt.errors import ArtifactError, RequestError
from graphopt.runtime.tokenizer import Tokenizer

from .tokenizers_zoo import byte_level, in_zoo, save_tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"


def test_loading_from_a_folder(tmp_path):
    tokenizer = Tokenizer.load(save_tokenizer(tmp_path, {"chat_template": TEMPLATE}))
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.eos_token_id == tokenizer.token_id("</s>")
    ids = tokenizer.encode("a the €")
    assert ids[0] == tokenizer.token_id("<s>")
    assert tokenizer.encode("a the €", add_special_tokens=False) == ids[1:]
    assert tokenizer.decode(ids) == "a the €"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>a the €"
    assert tokenizer.has_chat_template


def test_agreement_with_transformers(tmp_path):
    config = {"chat_template": TEMPLATE, "eos_token": "</s>"}
    folder = save_tokenizer(tmp_path, config)
    ours = Tokenizer.load(folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("", "a", "Hello, world </s> x", "naïve €5\n\n", "<tool>ing"):
        assert ours.encode(text) == theirs(text)["input_ids"]
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    messages = [{"role": "user", "content": "hi"}]
    assert ours.render_chat(messages) == theirs.apply_chat_template(messages, tokenize=False)


def test_padding_and_truncation_in_the_file_are_ignored(tmp_path):
    folder = save_tokenizer(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text())
    core = byte_level()
    core.enable_truncation(3)
    core.enable_padding(length=50)
    limited = json.loads(core.to_str())
    data["truncation"], data["padding"] = limited["truncation"], limited["padding"]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(Tokenizer.load(folder).encode("abcdefgh")) == 9


def test_a_template_in_its_own_file_wins(tmp_path):
    folder = save_tokenizer(tmp_path, {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert Tokenizer.load(folder).render_chat([]) == "new"


def test_named_templates(tmp_path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    tokenizer = Tokenizer.load(save_tokenizer(tmp_path, {"chat_template": named}))
    assert tokenizer.render_chat([]) == "plain"
    assert tokenizer.render_chat([], tools=[{"type": "function"}]) == "tools"


def test_without_a_template_chat_is_refused(tmp_path):
    tokenizer = Tokenizer.load(save_tokenizer(tmp_path))
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match="no chat template"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_variables_reach_the_template(tmp_path):
    config = {"chat_template": "{{ mood }}{{ eos_token }}"}
    tokenizer = Tokenizer.load(save_tokenizer(tmp_path, config))
    assert tokenizer.render_chat([], mood="calm") == "calm</s>"


def test_damaged_folders_are_named(tmp_path):
    with pytest.raises(ArtifactError, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    folder = save_tokenizer(tmp_path)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        Tokenizer.load(folder)
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ArtifactError, match="no object"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Tokenizer.load(folder)


def test_text_that_is_no_text_is_refused():
    with pytest.raises(RequestError, match="not valid Unicode") as caught:
        in_zoo("byte_level").encode("ab\ud800")
    assert caught.value.got == "'\\ud800' at 2"
    with pytest.raises(RequestError, match="the text is none"):
        in_zoo("byte_level").encode(5)


def test_visibility_and_bytes():
    tokenizer = in_zoo("byte_fallback")
    special, tool = tokenizer.token_id("<s>"), tokenizer.token_id("<tool>")
    assert not tokenizer.is_visible(special, True)
    assert tokenizer.is_visible(special, False)
    assert tokenizer.is_visible(tool, True)
    assert not tokenizer.is_visible(tokenizer.vocab_size + 3, True)
    assert tokenizer.is_byte(tokenizer.token_id("<0x41>"))
    assert not tokenizer.is_byte(tool)
    assert not in_zoo("byte_level").is_byte(0)
    assert tokenizer.token_id("no such token") is None
