"""The process of a compression: what it puts into the store, what it tells, and that it does it once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.tuning.train.conftest import tiny  # noqa: F401  # a fixture

from deepwell.errors import InvalidRequest
from deepwell.models.store.store import ModelStore
from deepwell.tuning.compress.worker import CONFIG, CompressConfig, MadeBy, Prune, Quantise, compress

pytestmark = pytest.mark.parity

TEXT = "".join(f"hello {number} world, {number * 7 % 100} times hello. " for number in range(400))


def configured(folder: Path, donor: Path, options: Any, **more: Any) -> CompressConfig:
    """Writes the configuration of a run, and its texts."""
    folder.mkdir()
    (folder / "text.txt").write_text(TEXT)
    (folder / "held-out.txt").write_text(TEXT[:6000])
    config = CompressConfig(
        model=str(donor),
        name="small",
        models_dir=str(folder.parent / "models"),
        made_by=MadeBy(folder.name, "owner", ("file-1",)),
        options=options,
        text=str(folder / "text.txt"),
        threads=1,
    )
    config = msgspec.structs.replace(config, **more)
    (folder / CONFIG).write_bytes(msgspec.json.encode(config))
    return config


def run(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    torch.set_num_threads(1)
    told: list[dict[str, Any]] = []
    assert compress(folder, told.append) == 0
    assert told[-1]["event"] == "done"
    return told[:-1], told[-1]


def test_a_pruned_model_lies_in_the_store_with_its_losses_and_is_not_made_twice(
    tiny: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    options = Prune(share=0.1, ways=("width",), recover="none")
    configured(tmp_path / "job-1", tiny, options, held_out=str(tmp_path / "job-1" / "held-out.txt"))
    told, done = run(tmp_path / "job-1")
    steps = list(dict.fromkeys(one["step"] for one in told))
    assert steps[0] == "held-out: donor" and steps[-1] == "held-out: result" and "candidates" in steps
    record = done["record"]
    assert record["method"] == "pruned" and record["loss_before"] and record["held_out"]["paired"] == 4
    assert record["held_out"]["precision"] == "int8" and done["bytes"] > 0 < done["base_bytes"]
    stored = ModelStore(tmp_path / "models").get("small")
    kept = json.loads((stored.path / "deepwell.json").read_bytes())
    assert kept["made_by"] == {"job": "job-1", "owner": "owner", "files": ["file-1"]}
    # As after a kill behind the end: nothing is computed again
    told, again = run(tmp_path / "job-1")
    assert told == [] and again["record"] == {**record, "format": 1}
    configured(tmp_path / "job-2", tiny, options)
    with pytest.raises(InvalidRequest, match="the name 'small' is taken"):
        compress(tmp_path / "job-2", told.append)


def test_a_quantised_model_lies_in_the_store_behind_what_a_killed_start_left(
    tiny: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    configured(tmp_path / "job", tiny, Quantise(type="q8_0", algorithm="none"), text="")
    (tmp_path / "job" / "made").mkdir()
    (tmp_path / "job" / "made" / "small.gguf").write_bytes(b"half")
    _, done = run(tmp_path / "job")
    stored = ModelStore(tmp_path / "models").get("small")
    assert stored.path.name == "small.gguf" and stored.manifest is not None
    assert done["record"]["type"] == "Q8_0" and done["bytes"] == stored.manifest.size_bytes
