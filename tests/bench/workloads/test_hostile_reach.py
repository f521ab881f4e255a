"""Files that reach out: the same for a seed, of every kind, and none of them brings the file that it names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deepwell.errors import DeepwellError
from deepwell.knowledge.parse.parse import parse_bytes
from deepwell_bench.workloads.hostile_reach import mutated, mutated_models, reaching

SECRET = "kestrel-of-another-sender"


def test_mutations_are_the_same_for_a_seed_and_others_for_another() -> None:
    first = list(mutated(1, 40))
    assert [one.data for one in first] == [one.data for one in mutated(1, 40)]
    assert [one.data for one in first] != [one.data for one in mutated(2, 40)]
    assert {one.kind for one in first} == {"document", "image", "sound"}
    assert len(list(mutated_models(1, 3))) == 3


def test_no_document_brings_the_file_that_it_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    documents = [one for one in reaching("http://127.0.0.1:9", str(secret)) if one.kind == "document"]
    assert len(documents) > 40
    for one in documents:
        try:
            text = parse_bytes(one.data, one.name).text
        except DeepwellError:
            continue
        assert SECRET not in text, one.name


def test_onnxruntime_writes_nothing_at_its_import(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environ |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environ.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", "import deepwell, onnxruntime"], env=environ, check=True)
    assert not list(tmp_path.iterdir())
