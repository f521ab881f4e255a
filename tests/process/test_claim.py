"""One process has a folder; what a killed one left behind counts for nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from deepwell.process.claim import Claim, read_claim

HOLDER = """
import sys
from pathlib import Path
from deepwell.process.claim import Claim
claim = Claim(Path(sys.argv[1]), "up")
print(claim.take(), flush=True)
claim.tell({"what": "another"})
print("told", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_claimed_once_and_free_again(tmp_path: Path) -> None:
    assert read_claim(tmp_path, "up") is None
    claim = Claim(tmp_path / "data", "up")
    assert claim.take()
    claim.tell({"what": "this"})
    found = read_claim(tmp_path / "data", "up")
    assert found is not None and found["what"] == "this" and found["here"]
    assert not Claim(tmp_path / "data", "up").take()
    claim.release()
    claim.release()
    assert read_claim(tmp_path / "data", "up") is None
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data" / "up.lock"]


def test_what_a_killed_process_left_is_stale(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n" and holder.stdout.readline() == "told\n"
    found = read_claim(tmp_path, "up")
    assert found is not None and found["pid"] == holder.pid and found["here"]
    assert not Claim(tmp_path, "up").take()
    holder.kill()
    holder.communicate()
    assert (tmp_path / "up.json").exists()
    assert read_claim(tmp_path, "up") is None
    claim = Claim(tmp_path, "up")
    assert claim.take() and not (tmp_path / "up.json").exists()
    claim.release()


def test_a_process_id_of_elsewhere_is_not_taken_for_one_here(tmp_path: Path) -> None:
    claim = Claim(tmp_path, "up")
    assert claim.take()
    claim.tell({})
    facts = json.loads((tmp_path / "up.json").read_text())
    for wrong in ({"namespace": "pid:[1]"}, {"started": "1"}):
        (tmp_path / "up.json").write_text(json.dumps(facts | wrong))
        found = read_claim(tmp_path, "up")
        assert found is not None and not found["here"]
    (tmp_path / "up.json").write_text("{")
    assert read_claim(tmp_path, "up") == {"pid": 0, "here": False}
    claim.release()
