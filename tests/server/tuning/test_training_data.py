"""Training files that would take the memory of a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.server.families.fine_tuning.data import InvalidTrainingFile, check_file


def test_a_large_array_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "train.json"
    with path.open("wb") as file:
        file.write(b' \n[{"messages": []}, ')
        file.truncate(100 << 30)  # nothing of it is on the disk
    with pytest.raises(InvalidTrainingFile, match="one JSON array") as refused:
        check_file(path, "training_file")
    assert refused.value.param == "training_file" and "a line" in str(refused.value)
