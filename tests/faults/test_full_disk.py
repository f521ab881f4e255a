"""A disk without room for files: uploads are told, batches wait for room."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from tests.needs import MOUNTS, require
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.waiting import until

from deepwell.server.options import FileOptions

DISK = 512 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    require(MOUNTS)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_files_and_batches_on_a_full_disk(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.storage.jobs.runner._AFTER_FAILURE_S", 0.05)
    engine = FakeEngine(max_model_len=4096)
    codec = make_codec(tmp_path / "tokenizer")
    running = start(make_service(engine, codec, model="toy", files=FileOptions(folder=small_disk)), engine)
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    try:
        with pytest.raises(openai.InternalServerError, match=r"there is no room.*delete files") as full:
            client.files.create(file=("large", bytes(4 * DISK)), purpose="user_data")
        assert full.value.status_code == 507 and full.value.code == "disk_full"
        assert used(small_disk) == 0 and not client.files.list().data

        line = {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "toy", "prompt": "once", "max_tokens": 4},
        }
        source = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
        rest = DISK - used(small_disk) - 16 * 1024
        filler = client.files.create(file=("filler", bytes(rest)), purpose="user_data")
        (small_disk / "other").write_bytes(b"")
        with pytest.raises(OSError, match="No space"):  # of somebody else's, to the last page
            (small_disk / "other").write_bytes(bytes(DISK))
        batch = client.batches.create(
            input_file_id=source.id, endpoint="/v1/completions", completion_window="24h"
        )
        until(lambda: client.batches.retrieve(batch.id).status == "finalizing")
        client.files.delete(filler.id)
        ended = until(lambda: (one := client.batches.retrieve(batch.id)).status == "completed" and one)
        assert "once" in client.files.content(ended.output_file_id).text
        assert httpx.get(f"{running.url}/readyz", timeout=60).is_success
    finally:
        client.close()
        running.stop()
