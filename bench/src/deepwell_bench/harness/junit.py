"""Runs test suites of the repository and reads what came of them from pytest's JUnit file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from deepwell.errors import DeepwellError
from deepwell_bench.harness.assets import repository

__all__ = ["SuiteRun", "run_junit", "run_pytest"]


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """A finished run: its exit status, what it printed, and pytest's JUnit document."""

    status: int
    output: str
    results: ElementTree.Element

    def counts(self) -> dict[str, int]:
        """Returns how many tests passed, failed (errors among them) and were skipped."""
        suites = list(self.results.iter("testsuite"))

        def total(name: str) -> int:
            return sum(int(suite.get(name, 0)) for suite in suites)

        failed, skipped = total("failures") + total("errors"), total("skipped")
        return {"passed": total("tests") - failed - skipped, "failed": failed, "skipped": skipped}

    def outcomes(self) -> Iterator[tuple[str, str]]:
        """Yields the name of each test with "passed", "failed" or "skipped"."""
        for case in self.results.iter("testcase"):
            tags = {child.tag for child in case}
            result = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
            yield f"{case.get('classname')}.{case.get('name')}", result

    def last_lines(self, count: int = 15) -> str:
        """Returns the end of what the run printed."""
        return "\n".join(self.output.splitlines()[-count:])


def run_junit(
    command: Callable[[str], Sequence[str]],
    *,
    fix: str,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = subprocess.STDOUT,
) -> SuiteRun:
    """Runs what `command` makes of pytest's option for a JUnit file, in the root of the repository.

    `environment` is added to this process's own; `stderr=None` leaves that stream to the terminal.

    Raises:
        DeepwellError: no test ran; `fix` says how to see why.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.xml"
        done = subprocess.run(
            command(f"--junitxml={path}"),
            cwd=repository(),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=False,
        )
        if not path.exists():
            raise DeepwellError(
                f"the tests did not run, status {done.returncode}:\n{done.stdout[-1500:]}", fix=fix
            )
        results = ElementTree.parse(path).getroot()  # noqa: S314 - pytest wrote it just now
    return SuiteRun(done.returncode, done.stdout, results)


def run_pytest(paths: Sequence[str], environment: Mapping[str, str] | None = None) -> SuiteRun:
    """Runs the tests at `paths` with the interpreter of this process.

    Raises:
        DeepwellError: pytest did not run.
    """
    command = [sys.executable, "-m", "pytest", *paths, "-q", "-p", "no:cacheprovider"]
    return run_junit(
        lambda option: [*command, option],
        fix=f"run `python -m pytest {' '.join(paths)}` and read what it says",
        environment=environment,
    )
