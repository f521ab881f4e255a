"""A version's report, and packs that are written: what is read again is what was written."""

from __future__ import annotations

import json
from pathlib import Path

from deepwell.dialogue.prompts.content import (
    PromptContent,
    PromptExample,
    PromptReport,
    decode_content,
    encode_content,
)
from deepwell.dialogue.prompts.pack import PromptPack, read_pack
from deepwell.dialogue.prompts.text import PromptMessage, PromptText
from deepwell.dialogue.prompts.writing import write_pack

TEXT = PromptText(
    'Say "yes" to {{who}}\\n\n\tand \x7f one more: 你好 {x}',
    (PromptMessage("user", "'''\"\"\"\r\n"), PromptMessage("assistant", "\U0001f600 {{who}}")),
    {"who": "name"},
)
REPORT = PromptReport("smollm2", "label", 300, 0.5, 0.6, 0.02, 0.18, 2000, 90_000, 0, "ab" * 32)


def test_a_version_without_a_report_keeps_the_hash_it_always_had() -> None:
    plain = PromptContent(TEXT)
    assert "report" not in json.loads(encode_content(plain))
    measured = PromptContent(TEXT, report=REPORT)
    assert decode_content(encode_content(measured)) == measured
    assert decode_content(encode_content(plain)) == plain


def test_a_pack_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    example = PromptExample("in", "out", {"who": "you"})
    content = PromptContent(TEXT, "Answers.", "zh", "law", "MIT", example)
    for number, one in enumerate((content, PromptContent(TEXT, "P", "en", "other", "MIT"))):
        file = tmp_path / f"{number}.toml"
        write_pack(file, PromptPack("reply", 3, one))
        assert read_pack(file) == PromptPack("reply", 3, one)


def test_what_a_stored_prompt_leaves_out_is_filled_in_a_pack(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    write_pack(file, PromptPack("reply", 1, PromptContent(PromptText("你好。"), report=REPORT)))
    found = read_pack(file).content
    assert (found.language, found.industry, found.license) == ("zh", "other", "unknown")
    assert found.report is None
