"""The learning path from a clean install: every page and notebook in order, in one language."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report
from deepwell.errors import DeepwellError
from deepwell.messages import Language
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.learning.pages import Played, Player, step_pages
from deepwell_bench.suites.repository.first_hour import Tally, install_clone
from deepwell_bench.suites.repository.suites import clean_environment

__all__ = ["bench_learning_path"]

FIRST_STEPS: Final = 3
BAR_MINUTES: Final = 30.0
LOCALES: Final[dict[Language, str]] = {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}
_INSTALL_S: Final = 1800
_NOTEBOOK_S: Final = 600


def bench_learning_path(report: Report, *, python: str, language: Language) -> dict[str, Any]:
    """Clones HEAD, installs it in an empty home, and plays the pages, then the notebooks.

    The value is the machine time of the installation and the first three steps, in minutes.
    """
    rows: list[list[object]] = []
    failed, first_s = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="deepwell-path-") as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        home.mkdir()
        tally, began = Tally(report), time.monotonic()
        install_clone(tally, clone, home, python)
        rows.append(["install", 2, tally.failures, time.monotonic() - began])
        first_s += time.monotonic() - began
        if tally.failures:
            return _result(rows, tally.failures, first_s, 0, 0)
        player = _player(clone, home, language)
        pages = step_pages(clone / "docs", language)
        with player.at_work():
            for page in pages:
                number = int(page.name[:2])
                if number == FIRST_STEPS + 1:
                    _complete(clone, home, python)
                began = time.monotonic()
                played, problem = _played(player, page)
                seconds = time.monotonic() - began
                if problem:
                    report.note(f"FAILED {page.name}: {problem}")
                failed += bool(problem)
                first_s += seconds if number <= FIRST_STEPS else 0.0
                rows.append([page.name, sum(map(len, played.values())), int(bool(problem)), seconds])
        desk = Path(folder) / "desk"  # of somebody else, without the keys of step 11
        desk.mkdir()
        models = {"DEEPWELL_MODELS_DIR": str(home / ".cache" / "deepwell" / "models")}
        reader = _player(clone, desk, language, folder=desk, **models)
        with reader.at_work():
            notebooks, broken = _notebooks(report, reader, clone, language)
        rows += notebooks
    report.table(
        "The learning path",
        ["page", "commands", "failed", "seconds"],
        [[*row[:3], round(float(str(row[3])), 1)] for row in rows],
    )
    return _result(rows, failed + broken, first_s, len(pages), len(notebooks))


def _result(
    rows: list[list[object]], failed: int, first_s: float, pages: int, notebooks: int
) -> dict[str, Any]:
    minutes = first_s / 60
    return {
        "name": "learning_path",
        "value": round(minutes, 2),
        "bar": BAR_MINUTES,
        "holds": failed == 0 and pages == 12 and minutes <= BAR_MINUTES,
        "pages": pages,
        "notebooks": notebooks,
        "commands": sum(int(str(row[1])) for row in rows),
        "failed": failed,
    }


def _player(
    clone: Path, home: Path, language: Language, *, folder: Path | None = None, **more: str
) -> Player:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    locale = LOCALES[language]
    env = clean_environment(
        HOME=str(home), LC_ALL=locale, LANG=locale, DEEPWELL_PORT=str(port), COLUMNS="110", **more
    )
    tune = next(
        (bin for root in (clone, repository()) if (bin := root / ".venv-tune" / "bin").is_dir()), None
    )
    return Player(folder or clone, env, clone / ".venv" / "bin", tune)


def _complete(clone: Path, home: Path, python: str) -> None:
    """Brings the extras that the later steps need, as step 4 says."""
    subprocess.run(
        ["make", "-s", "dev", f"PYTHON={python}"],
        cwd=clone,
        env=clean_environment(HOME=str(home)),
        check=True,
        capture_output=True,
        timeout=_INSTALL_S,
    )


def _played(player: Player, page: Path) -> tuple[dict[int, list[Played]], str]:
    """Runs a page; returns its commands, and why it failed."""
    try:
        return player.play(page.read_text(encoding="utf-8")), ""
    except (DeepwellError, OSError, subprocess.SubprocessError) as error:
        return {}, str(error)[:900]


def _notebooks(
    report: Report, player: Player, clone: Path, language: Language
) -> tuple[list[list[object]], int]:
    """Runs the cells of every notebook against a server of the language's model."""
    model = "qwen2.5-coder-0.5b" if language == "zh" else "smollm2"
    player.play(f"```console server\n$ deepwell serve {model}\n```\n")
    rows: list[list[object]] = []
    failed = 0
    for path in sorted((clone / "examples" / "notebooks").glob("*.ipynb")):
        if path.name.endswith(".zh-CN.ipynb") != (language == "zh"):
            continue
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        script = path.with_suffix(".py")
        script.write_text(code + "\n", encoding="utf-8")
        began = time.monotonic()
        problem = player.program(script, _NOTEBOOK_S)
        if problem:
            failed += 1
            report.note(f"FAILED {path.name}: {problem}")
        rows.append([path.name, len(cells), int(bool(problem)), time.monotonic() - began])
    return rows, failed
