"""Unigram vocabularies: SentencePiece's tables of replacements, and `tokenizer.json` of XLM-RoBERTa's kind."""

from __future__ import annotations

import base64
import json
import struct
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.e5 import E5Vocabulary
from deepwell.models.text.hosted import HostedTokenizer, open_tokenizer
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.models.text.unigram import charsmap_growth, precompiled_charsmap, unigram_backend

VOCABULARY = E5Vocabulary(
    ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁深", "度", "▁deep", "well", "<mask>"),
    (0.0, 0.0, 0.0, 0.0, -2.0, -4.0, -5.0, -4.0, -5.0, 0.0),
    bos=0,
    eos=2,
    pad=1,
    unk=3,
    replacements={"Ｄ": "d", "\u3000": " "},
)
# Characters that stand alone: a letter and the accents behind it are looked up together.
ALONE = st.characters(
    exclude_categories=("Cs", "Mn", "Me", "Mc", "Cc", "Cf", "Lm", "Sk"), exclude_characters="\0"
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


def directory(path: Path, backend: Backend) -> Path:
    """A model directory with this `tokenizer.json`."""
    path.mkdir(parents=True, exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    return path


@given(table=st.dictionaries(ALONE, TEXTS, max_size=60), others=st.sets(ALONE, max_size=20))
def test_a_table_replaces_its_characters_and_no_others(table: dict[str, str], others: set[str]) -> None:
    normalizer = normalizers.Precompiled(precompiled_charsmap(table))
    for character, replacement in table.items():
        assert normalizer.normalize_str(character) == replacement
    for character in others - table.keys():
        assert normalizer.normalize_str(character) == character


@given(table=st.dictionaries(ALONE, TEXTS, min_size=1, max_size=20))
def test_growth_is_the_longest_replacement(table: dict[str, str]) -> None:
    normalizer = normalizers.Precompiled(precompiled_charsmap(table))
    longest = max(len(text.encode()) for text in table.values())
    assert charsmap_growth(json.loads(normalizer.__getstate__())) == max(1, longest)


def test_decomposed_letters_have_the_tokens_of_composed_ones(e5_path: Path) -> None:
    tokenizer = Tokenizer.load(e5_path)
    for text in ("Crème brûlée", "한국어", "ガギ", "Việt Nam", "Ångström"):
        assert tokenizer.encode(unicodedata.normalize("NFD", text)) == tokenizer.encode(text)


def test_a_tokenizer_json_reads_as_it_was_written(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(directory(tmp_path / "model", unigram_backend(VOCABULARY)))
    assert (tokenizer.kind, tokenizer.prefix_ids, tokenizer.suffix_ids) == ("unigram", (0,), (2,))
    assert tokenizer.eos_token_ids == (2,) and tokenizer.pad_token_id == 1
    tokens = tokenizer.encode("Ｄeepwell\u3000深度")
    assert [tokenizer.spelling(token) for token in tokens] == ["▁deep", "well", "▁深", "度"]
    assert tokenizer.decode(tokens) == "deepwell 深度"
    assert tokenizer.special_ids == {0, 1, 2, 3, 9}


def test_a_strangers_tokenizer_json_runs_in_a_process_with_limits(tmp_path: Path) -> None:
    path = directory(tmp_path / "model", unigram_backend(VOCABULARY))
    hosted, own = open_tokenizer(path), Tokenizer.load(path)
    assert isinstance(hosted, HostedTokenizer)
    try:
        assert hosted.encode("deepwell 深度?") == own.encode("deepwell 深度?")
        assert hosted.kind == "unigram" and hosted.suffix_ids == (2,)
    finally:
        hosted.process.close()


def test_a_table_that_inflates_text_is_refused(tmp_path: Path) -> None:
    backend = unigram_backend(VOCABULARY)
    backend.normalizer = normalizers.Precompiled(precompiled_charsmap({"a": "b" * 300}))
    with pytest.raises(InvalidModelFile, match="300 bytes of one"):
        Tokenizer.load(directory(tmp_path / "model", backend))


@pytest.mark.parametrize(
    "trie",
    [
        struct.pack("<I", 1 << 31 | 1 << 20) * 300,  # a value far behind the texts
        struct.pack("<I", 0x1FFFFF << 10 | 1 << 8 | ord("a")) * 300,  # children far behind the trie
    ],
)
def test_a_table_that_points_outside_ends_as_an_error(tmp_path: Path, trie: bytes) -> None:
    path = directory(tmp_path / "model", Backend(models.Unigram([("<unk>", 0.0), ("▁a", -1.0)], 0)))
    content = json.loads((path / "tokenizer.json").read_text())
    table = struct.pack("<I", len(trie)) + trie + b"x\0"
    content["normalizer"] = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(table).decode(),
    }
    (path / "tokenizer.json").write_text(json.dumps(content))
    try:
        tokenizer = Tokenizer.load(path)
        tokenizer.encode("a" * 10)
    except InvalidModelFile:
        return
    assert tokenizer.kind == "unigram"
