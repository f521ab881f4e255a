"""Pages of the learning path that need the smallest model alone, played in order with their checks. `.ci/nightly` plays all."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.parallel import free_port

from deepwell.models.store.store import ModelStore
from deepwell_bench.harness.learning.pages import Player, step_pages

ROOT = Path(__file__).parents[2]
STEPS = (1, 2, 7, 11)


@pytest.mark.nightly
def test_steps_of_the_smallest_model_run_and_pass_their_checks(smollm2_path: Path, tmp_path: Path) -> None:
    ModelStore(tmp_path / "models").pull(str(smollm2_path), name="smollm2")
    shutil.copytree(ROOT / "examples" / "tuning", tmp_path / "desk" / "examples" / "tuning")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DEEPWELL_")},
        "DEEPWELL_HOME": str(tmp_path / "home"),
        "DEEPWELL_MODELS_DIR": str(tmp_path / "models"),
        "DEEPWELL_PORT": str(free_port()),
        "LC_ALL": "C.UTF-8",
    }
    player = Player(tmp_path / "desk", env, Path(sys.executable).parent)
    pages = {int(page.name[:2]): page for page in step_pages(ROOT / "docs", "en")}
    with player.at_work():
        for number in STEPS:
            played = player.play(
                pages[number].read_text(encoding="utf-8")
            )  # raises where a command or check fails
            last = [one for block in played.values() for one in block][-1]
            assert last.command == f"deepwell learn check {number}"
            assert f"Step {number} is passed" in last.output
