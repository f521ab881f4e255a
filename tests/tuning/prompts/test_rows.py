"""Rows and their split: frozen by hash, each input in one part, and no part read before it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from deepwell.errors import InvalidFile, InvalidRequest
from deepwell.tuning.prompts.rows import JOURNAL, Fields, Shares, freeze, key_of, read_rows, split_rows

FIELDS = Fields()


def written(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def many(count: int = 200) -> list[dict[str, object]]:
    return [{"input": f"text {number}", "label": "ab"[number % 2], "id": number} for number in range(count)]


def test_a_split_depends_on_inputs_alone_and_repeated_inputs_stand_once(tmp_path: Path) -> None:
    rows = many()
    first = freeze(written(tmp_path / "a.jsonl", rows), tmp_path / "one", Shares(), FIELDS)
    again = [{"input": " TEXT  7 ", "label": "a"}]
    second = freeze(written(tmp_path / "b.jsonl", rows[::-1] + again), tmp_path / "two", Shares(), FIELDS)
    for part in ("train", "development", "held_out"):
        keys = {row.key for row in first.rows(part)}
        assert keys == {row.key for row in second.rows(part)}
        assert all(row.fields["id"] is not None and row.answer in "ab" for row in first.rows(part))
    assert sum(first.counts.values()) == 200 and (first.dropped, second.dropped) == (0, 1)
    unwritten = split_rows(tmp_path / "b.jsonl", Shares(), FIELDS)
    assert unwritten == {part: second.rows(part) for part in unwritten}
    assert abs(first.counts["train"] - 80) < 30


def test_a_part_that_changed_after_the_split_is_refused_when_it_is_read(tmp_path: Path) -> None:
    frozen = freeze(written(tmp_path / "a.jsonl", many()), tmp_path / "out", Shares(), FIELDS)
    (tmp_path / "out" / "held_out.jsonl").write_text('{"input": "other", "label": "a"}\n')
    assert frozen.rows("train")
    with pytest.raises(InvalidFile, match="held_out"):
        frozen.rows("held_out")


def test_a_folder_keeps_its_split_and_takes_no_other(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", many())
    freeze(data, tmp_path / "out", Shares(0.6, 0.2, 0.2), FIELDS)  # no search began on it, so it binds nobody
    first = freeze(data, tmp_path / "out", Shares(), FIELDS)
    (tmp_path / "out" / JOURNAL).write_text("{}\n")
    assert freeze(data, tmp_path / "out", Shares(), FIELDS).counts == first.counts
    with pytest.raises(InvalidFile, match="other options"):
        freeze(data, tmp_path / "out", Shares(0.5, 0.25, 0.25), FIELDS)
    other = written(tmp_path / "b.jsonl", many(150))
    with pytest.raises(InvalidFile, match="other options"):
        freeze(other, tmp_path / "out", Shares(), FIELDS)


@pytest.mark.parametrize(
    "change",
    [b"", b"[]", b"\xff", b"[" * 100_000, {"counts": "x"}, {"counts": {}}, {"sha256": []}, {"dropped": "x"}],
)
def test_a_damaged_record_of_a_split_is_refused(tmp_path: Path, change: bytes | dict[str, object]) -> None:
    data, out = written(tmp_path / "a.jsonl", many()), tmp_path / "out"
    freeze(data, out, Shares(), FIELDS)
    record = out / "splits.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(record.read_text()) | change).encode()
    record.write_bytes(change)
    with pytest.raises(InvalidFile, match="other options"):
        freeze(data, out, Shares(), FIELDS)


@pytest.mark.parametrize("name", ["train", "held_out"])
def test_a_split_overwrites_no_file_of_others(tmp_path: Path, name: str) -> None:
    """Rows may come from the folder that the search writes into, under the name of a part."""
    data = written(tmp_path / f"{name}.jsonl", many())
    before = data.read_bytes()
    with pytest.raises(InvalidFile, match="overwritten"):
        freeze(data, tmp_path, Shares(), FIELDS)
    assert data.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == [data.name]


def test_a_split_that_is_replaced_overwrites_neither_rows_nor_files_of_others(tmp_path: Path) -> None:
    data, out = written(tmp_path / "a.jsonl", many()), tmp_path / "out"
    freeze(data, out, Shares(), FIELDS)
    with pytest.raises(InvalidFile, match="overwritten"):
        freeze(out / "train.jsonl", out, Shares(), FIELDS, least=0)
    (out / "train.jsonl").write_text("mine")
    with pytest.raises(InvalidFile, match="overwritten"):
        freeze(data, out, Shares(0.6, 0.2, 0.2), FIELDS)
    assert (out / "train.jsonl").read_text() == "mine"


def test_a_split_that_was_broken_off_is_made_again(tmp_path: Path) -> None:
    data, out = written(tmp_path / "a.jsonl", many()), tmp_path / "out"
    first = freeze(data, out, Shares(), FIELDS)
    (out / "splits.json").unlink()
    (out / "held_out.jsonl").unlink()
    assert freeze(data, out, Shares(), FIELDS).counts == first.counts


def test_without_a_share_no_row_is_held_out(tmp_path: Path) -> None:
    frozen = freeze(written(tmp_path / "a.jsonl", many()), tmp_path / "out", Shares(0.6, 0.4, 0.0), FIELDS)
    assert frozen.counts["held_out"] == 0 and frozen.counts["development"] > 40


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no json", "line 2"),
        ("[1]", "no JSON object"),
        ('{"text": ""}', "text is no text"),
        ('{"label": "a"}', "it has none of input, text, question, but label"),
        ('{"input": {"a": 1}}', "input is no text"),
        ('{"input": "\\ud800"}', "line 2.*surrogate"),
        ('{"input": "x", "note": ["\\udfff"]}', "line 2.*surrogate"),
        ("[" * 100_000, "no JSON object"),
        pytest.param('{"input": "x", "a": "' + "y" * (1 << 20) + '"}', "line 2.*over 1 MB", id="long"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"input": "x", "label": 3}}\n{line}\n')
    with pytest.raises(InvalidFile, match=words):
        read_rows(path, FIELDS)


def test_rows_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.tuning.prompts.rows._MAX_FILE", 1 << 20)
    with pytest.raises(InvalidFile, match="over 1 MB"):
        read_rows(Path("/dev/zero"), FIELDS)


def test_fields_have_names_of_their_own_and_numbers_are_labels(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", [{"review": "fine", "stars": 4}])
    [row] = read_rows(path, Fields("review", "stars"))
    assert (row.input, row.answer, row.key) == ("fine", "4", key_of("Fine "))


def test_too_few_rows_are_refused_with_their_counts(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"train \d+, development \d+, held_out \d+"):
        freeze(written(tmp_path / "a.jsonl", many(12)), tmp_path / "out", Shares(), FIELDS)
    assert not (tmp_path / "out").exists()
