"""Tokenizers rebuilt from GGUF and read from tokenizer.json: cuts, round trips, special tokens, refusals."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.tokenizer_files import CONTROL, USER_DEFINED, words, write_directory, write_gguf
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tokenizers.pre_tokenizers import PreTokenizer

from deepwell.errors import InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.text.pretokenizers import PRE_TOKENIZERS
from deepwell.models.text.tokenizer import Tokenizer

UNICODE = st.text(st.characters(codec="utf-8"), max_size=60)


def cuts(pre: str, text: str) -> list[str]:
    """The words `text` is cut into, as text."""
    splitter: PreTokenizer = PRE_TOKENIZERS[pre]()
    return [text[start:end] for _, (start, end) in splitter.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'll don't I'LL", ["I", "'ll", " don", "'t", " I", "'", "LL"]),
        ("a 2024b", ["a", " ", "2", "0", "2", "4", "b"]),
        ("x  y", ["x", " ", " y"]),
        ("x   \n\ny", ["x", "   \n", "\n", "y"]),
        ("中文，你好!", ["中文", "，", "你好", "!"]),
        ("x=1; // ok", ["x", "=", "1", ";", " //", " ok"]),
        ("Ⅷ½", ["Ⅷ", "½"]),
    ],
)
def test_smollm_splits_digits_one_by_one(text: str, words: list[str]) -> None:
    assert cuts("smollm", text) == words


@pytest.mark.parametrize("pre", ["qwen2", "deepseek-r1-qwen"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'LL don'T", ["I", "'LL", " don", "'T"]),
        ("12345", ["1", "2", "3", "4", "5"]),
        ("中文，你好!!", ["中文", "，你好", "!!"]),
        ("a\n\n  b", ["a", "\n\n", " ", " b"]),
        ("a  \n b", ["a", "  \n", " b"]),
        ("end   ", ["end", "   "]),
        ("$x_1 + (y)", ["$x", "_", "1", " +", " (", "y", ")"]),
        ("?!\r\nnext", ["?!\r\n", "next"]),
        ("naïve café", ["naïve", " café"]),
    ],
)
def test_qwen2_cuts(pre: str, text: str, words: list[str]) -> None:
    assert cuts(pre, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("12345", ["123", "45"]),
        ("in 2024!", ["in", " ", "202", "4", "!"]),
        ("We're HE'S", ["We", "'re", " HE", "'S"]),
        ("中文123。", ["中文", "123", "。"]),
        ("a\t\tb", ["a", "\t", "\tb"]),
        ("a \n\n b", ["a", " \n\n", " b"]),
    ],
)
def test_llama_bpe_cuts_digits_by_three(text: str, words: list[str]) -> None:
    assert cuts("llama-bpe", text) == words


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("deepseek-llm", "don't 123", ["don", "'", "t", " ", "1", "2", "3"]),
        ("deepseek-llm", "a\n\nb  ", ["a", "\n", "\n", "b", "  "]),
        ("deepseek-llm", "说：“好”。", ["说", "：", "“", "好", "”。"]),  # its CJK range starts at U+0800
        ("deepseek-llm", "Ωμέγα Kelvin", ["Ωμέγα", " Kelvin"]),
        ("deepseek-coder", "if x:\n\ty", ["if", " x", ":", "\n", "\ty"]),
        ("deepseek-v3", "1234 漢字かな", ["123", "4", " ", "漢字かな"]),
        ("deepseek-v3", "don't .call(x)", ["don", "'t", " .", "call", "(x", ")"]),
        ("gpt-2", "it's 2024  ok", ["it", "'s", " 2024", " ", " ok"]),
    ],
)
def test_other_cuts(pre: str, text: str, words: list[str]) -> None:
    assert cuts(pre, text) == words


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
@given(text=UNICODE)
def test_every_pre_tokenizer_keeps_every_character(pre: str, text: str) -> None:
    assert "".join(cuts(pre, text)) == text


@given(text=UNICODE)
def test_gguf_round_trip(byte_tokenizer: Tokenizer, text: str) -> None:
    ids = byte_tokenizer.encode(text, allow_special=False)
    assert byte_tokenizer.decode(ids) == unicodedata.normalize("NFC", text)  # as Qwen2's own tokenizer.json


@given(text=UNICODE)
def test_round_trip_without_normalisation(plain_tokenizer: Tokenizer, text: str) -> None:
    ids = plain_tokenizer.encode(text, allow_special=False)
    assert plain_tokenizer.decode(ids) == text
    assert b"".join(map(plain_tokenizer.token_bytes, ids)) == text.encode()


def test_merges_apply(plain_tokenizer: Tokenizer) -> None:
    pieces = [plain_tokenizer.token_bytes(i) for i in plain_tokenizer.encode("hello hello12你")]
    assert pieces == [b"hello", b" hello", b"1", b"2", "你".encode()]


@pytest.mark.parametrize("kind", ["gguf", "json"])
def test_special_tokens(kind: str, tmp_path: Path) -> None:
    if kind == "gguf":
        tokenizer = Tokenizer.load(write_gguf(tmp_path / "m.gguf"))
    else:
        tokenizer = Tokenizer.load(write_directory(tmp_path, generation={"eos_token_id": [268, 266]}))
    ids = {token: tokenizer.backend.token_to_id(token) for token in (*CONTROL, *USER_DEFINED)}
    assert tokenizer.special_ids == {ids[token] for token in CONTROL}
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.eos_token_ids == (ids["<|im_end|>"], ids["<|endoftext|>"])
    assert not tokenizer.add_bos
    assert tokenizer.vocab_size == len(words()) + 5

    text = "<think>hello</think><|im_end|>"
    whole = tokenizer.encode(text)
    assert [whole[0], *whole[-2:]] == [ids["<think>"], ids["</think>"], ids["<|im_end|>"]]
    assert tokenizer.decode(whole) == "<think>hello</think>"
    assert tokenizer.decode(whole, skip_special=False) == text
    assert tokenizer.token_bytes(ids["<|im_end|>"]) == b"<|im_end|>"

    as_text = tokenizer.encode(text, allow_special=False)
    assert not tokenizer.special_ids & set(as_text)
    assert as_text[: len(whole) - 1] == whole[:-1]  # ordinary added tokens stay
    assert tokenizer.decode(as_text) == text


@given(text=st.text("<|im_end>startxo", max_size=40))
def test_plain_encoding_never_yields_control_tokens(byte_tokenizer: Tokenizer, text: str) -> None:
    ids = byte_tokenizer.encode(text + "<|im_end|>" + text, allow_special=False)
    assert not byte_tokenizer.special_ids & set(ids)


def test_names_that_look_like_control_tokens_are_control_tokens(tmp_path: Path) -> None:
    tokens = ["<｜User｜>", "<|role|>", "<plain>", *words()]
    path = write_gguf(tmp_path / "m.gguf", tokens=tokens, kinds=[4, 4, 4] + [1] * len(words()))
    assert Tokenizer.load(path).special_ids == {0, 1}


def test_llama_bpe_takes_known_words_whole_and_adds_bos(tmp_path: Path) -> None:
    tokens = [*CONTROL, *words(), "Ġworld"]  # no merge leads to "Ġworld"
    kinds = [3] * len(CONTROL) + [1] * (len(words()) + 1)
    llama = Tokenizer.load(write_gguf(tmp_path / "l.gguf", pre="llama-bpe", tokens=tokens, kinds=kinds))
    other = Tokenizer.load(write_gguf(tmp_path / "o.gguf", pre="smollm", tokens=tokens, kinds=kinds))
    assert len(llama.encode(" world")) == 1
    assert len(other.encode(" world")) == 6
    assert llama.add_bos and not other.add_bos


def test_a_directory_may_hold_one_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    assert Tokenizer.load(tmp_path).vocab_size == len(words()) + 5
    write_gguf(tmp_path / "n.gguf")
    with pytest.raises(InvalidModelFile, match=r"2 \.gguf files"):
        Tokenizer.load(tmp_path)


def test_templates_of_a_directory(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    directory = write_directory(tmp_path, config={"chat_template": named})
    assert Tokenizer.load(directory).chat_template == "d"
    (directory / "chat_template.jinja").write_text("file")
    assert Tokenizer.load(directory).chat_template == "file"


def test_unknown_ids_stand_for_nothing(byte_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.token_bytes(10**6) == b""
    assert byte_tokenizer.decode([10**6]) == ""


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"pre": "moonbeam"}, UnsupportedModel, "'moonbeam'"),
        ({"pre": None}, UnsupportedModel, "pre-tokenizer None"),
        ({"model": "llama"}, UnsupportedModel, "'llama' is not byte-level BPE"),
        ({"tokens": ["a", "a"]}, InvalidModelFile, "1 tokens occur twice"),
        ({"tokens": ["a", "b", "c"], "merges": ["a b"]}, InvalidModelFile, "merges do not fit"),
        ({"tokens": ["a", "b", "ab"], "merges": ["ab"]}, InvalidModelFile, "merges do not fit"),
        (
            {"tokens": ["a", "b", "ab"], "kinds": [1], "merges": ["a b"]},
            InvalidModelFile,
            "one entry a token",
        ),
        ({"eos": 10**6}, InvalidModelFile, "eos_token_id = 1000000"),
    ],
)
def test_unsound_gguf_vocabularies_are_refused(
    tmp_path: Path, arguments: dict, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        Tokenizer.load(write_gguf(tmp_path / "m.gguf", **arguments))


def test_unsound_tokenizer_json_is_refused(tmp_path: Path) -> None:
    directory = write_directory(tmp_path)
    (directory / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(InvalidModelFile, match=r"tokenizer_config\.json does not parse"):
        Tokenizer.load(directory)
    (directory / "tokenizer_config.json").unlink()
    sound = json.loads((directory / "tokenizer.json").read_text())
    for model in ({"merges": ["a b c"]}, {"merges": ["a b"]}, {"vocab": {"a": 4294967295}, "merges": []}):
        damaged = sound | {"model": sound["model"] | model}
        (directory / "tokenizer.json").write_text(json.dumps(damaged))
        with pytest.raises(InvalidModelFile, match=r"tokenizer\.json"):
            Tokenizer.load(directory)
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(InvalidModelFile, match=r"tokenizer\.json does not parse"):
        Tokenizer.load(directory)


def test_truncation_and_padding_left_in_a_file_do_not_apply(tmp_path: Path) -> None:
    directory = write_directory(tmp_path)
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    backend.save(str(directory / "tokenizer.json"))
    assert len(Tokenizer.load(directory).encode("x y z")) == 5


def test_a_tokenizer_that_is_not_byte_level_bpe_is_refused(tmp_path: Path) -> None:
    Backend(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match="byte-level"):
        Tokenizer.load(tmp_path)


def test_a_lone_surrogate_is_the_callers_mistake(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        byte_tokenizer.encode("\ud800")


@pytest.mark.model
def test_smollm2_tokens(smollm2_path: Path) -> None:
    """Ids as the model's published tokenizer.json gives them."""
    tokenizer = Tokenizer.load(smollm2_path)
    assert tokenizer.encode("Hello 123 don't") == [19556, 216, 33, 34, 35, 1326, 982]
    assert tokenizer.vocab_size == 49152
    assert tokenizer.eos_token_ids == (2, 0)
    assert not tokenizer.add_bos
    assert tokenizer.chat_template is not None
