"""`python -m deepwell_bench.workers.learn_pages`: packs the pages of the learning path; with `--play`, runs them first.

A page that was run shows what its commands printed.

The packed pages are what `deepwell learn show` prints where there is no checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.learning.pages import Player, step_pages, with_outputs

__all__ = ["packed_pages"]

LOCALES = {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}


def packed_pages(docs: Path) -> str:
    """Returns the pages of all steps in both languages as JSON, by language and number."""
    pages = {
        language: {page.name[:2]: page.read_text(encoding="utf-8") for page in step_pages(docs, language)}
        for language in LOCALES
    }
    return json.dumps(pages, ensure_ascii=False, indent=1) + "\n"


def _play(language: str, steps: set[int], port: int, home: Path, folder: Path) -> None:
    """Runs the pages of some steps and writes what their commands printed into them."""
    root = repository()
    env = {
        **os.environ,
        "LC_ALL": LOCALES[language],
        "COLUMNS": "110",
        "DEEPWELL_PORT": str(port),
        "DEEPWELL_HOME": str(home),
        "NO_COLOR": "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(root / "examples")
    tune = root / ".venv-tune" / "bin"
    if min(steps) > 1:  # the folder that step 1 makes
        (folder / "learn").mkdir(exist_ok=True)
        (folder / ".place").write_text(str(folder / "learn"), encoding="utf-8")
    player = Player(folder, env, Path(sys.executable).parent, tune if tune.is_dir() else None)
    with player.at_work():
        for page in step_pages(root / "docs", language):
            if int(page.name[:2]) not in steps:
                continue
            text = page.read_text(encoding="utf-8")
            played = player.play(text, strict=False)
            for one in (one for block in played.values() for one in block):
                mark = "" if one.code == 0 else f"  [exit code {one.code}]"
                print(f"{page.name} {one.seconds:6.1f} s  {one.command[:70]!r}{mark}", flush=True)
            page.write_text(with_outputs(text, played), encoding="utf-8")


def main() -> None:
    """Packs the pages, and runs those of a language first if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--play", choices=sorted(LOCALES))
    parser.add_argument("--steps", default="1-12")
    parser.add_argument("--port", type=int, default=8461)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.play:
        first, _, last = given.steps.partition("-")
        steps = set(range(int(first), int(last or first) + 1))
        with tempfile.TemporaryDirectory(prefix="deepwell-learn-") as scratch:
            folder = given.folder or Path(scratch) / "deepwell"
            _play(given.play, steps, given.port, folder / ".home", folder)
    target = Path(str(files("deepwell.cli.learn"))) / "pages.json"
    target.write_text(packed_pages(repository() / "docs"), encoding="utf-8")


if __name__ == "__main__":
    main()
