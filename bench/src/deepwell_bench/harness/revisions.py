"""Earlier commits of this repository with an environment of their own, for comparisons with this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from rich.console import Console

from deepwell_bench.harness.assets import bench_cache, repository
from deepwell_bench.harness.environments import PeerError, build_lock, build_step

__all__ = ["VARIABLE", "Revision", "open_revision", "this_checkout", "tracked_blobs"]

VARIABLE = "DEEPWELL_BENCH_REVISION"  # names a checkout of the commit whose .venv is installed
PROGRAMS = {
    "paced": ("deepwell_bench.workers.paced", "deepwell.bench.workers.paced", "deepwell.bench.paced"),
    "api_docs": (
        "deepwell_bench.workers.api_docs",
        "deepwell.bench.workers.api_docs",
        "deepwell.bench.api_docs",
    ),
}
"""Programs that are run in trees of other commits as well: the modules that hold them, this tree's first."""
_WHERE = "import deepwell; print(deepwell.__file__)"
_SECONDS = 300  # for one program in a revision's environment


@dataclass(frozen=True, slots=True)
class Revision:
    """A tree of the repository, and the interpreter that has it installed."""

    name: str
    commit: str
    root: Path
    python: Path

    def module(self, program: str) -> str:
        """Returns the module that holds one of `PROGRAMS` in this tree."""
        modules = PROGRAMS[program]
        roots = (self.root / "src", self.root / "bench" / "src")
        files = {one: f"{one.replace('.', '/')}.py" for one in modules}
        found = (one for one, file in files.items() if any((root / file).exists() for root in roots))
        return next(found, modules[0])

    def output(
        self, arguments: Sequence[str], *, env: Mapping[str, str] | None = None, accept: Sequence[int] = (0,)
    ) -> str:
        """Returns what the tree's interpreter prints with these arguments, run in the tree.

        Args:
            accept: exit statuses that are no failure.

        Raises:
            PeerError: it fails, or does not end in time.
        """
        try:
            done = subprocess.run(
                [str(self.python), *arguments],
                cwd=self.root,
                env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
                | dict(env or {}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PeerError(
                f"{self.name}: {' '.join(arguments[:3])} took more than {_SECONDS} s", fix="run it again"
            ) from None
        if done.returncode not in accept:
            said = (done.stdout + done.stderr).strip()[-1500:]
            raise PeerError(
                f"{self.name}: {' '.join(arguments[:3])} ended with status {done.returncode}:\n{said}",
                fix=f"run it in {self.root} with {self.python}",
            )
        return done.stdout


def this_checkout() -> Revision:
    """Returns the tree that runs this program."""
    return _checked(Revision("this checkout", "HEAD", repository(), Path(sys.executable)))


def open_revision(commit: str, console: Console) -> Revision:
    """Returns the tree of a commit with its environment: the checkout that the variable names, or one built on first use.

    A build is kept in the cache by the commit's hash.

    Raises:
        PeerError: there is no such commit, the checkout that the variable names is another one, or the build failed.
    """
    full = _git(
        ["rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], f"no commit {commit!r} is here"
    ).strip()
    short = full[:12]
    if named := os.environ.get(VARIABLE):
        return _checked(_named(Path(named), full))
    home = bench_cache() / "revisions" / short
    tree, stamp = home / "tree", home / "built"
    found = Revision(short, full, tree, tree / ".venv" / "bin" / "python")
    recipe = f"{full} {sys.version_info[:2]}"
    with build_lock(home):
        if stamp.exists() and stamp.read_text(encoding="utf-8") == recipe and found.python.exists():
            return _checked(found)
        console.print(
            f"Building the environment of {short} in {home}: about 250 MB to download, 660 MB on disk, 2 to 5 minutes, once.",
            markup=False,
            soft_wrap=True,
        )
        start = time.monotonic()
        if not (tree / "pyproject.toml").exists():
            _extract(full, tree)
        log = home / "build.log"
        log.unlink(missing_ok=True)
        build_step(
            f"environment of {short}",
            [str(tree / ".ci" / "install"), sys.executable, ".venv", "[dev]"],
            log,
            console,
            cwd=tree,
            fix=f"see {log}; run the command again to go on, or name a checkout with its .venv in {VARIABLE}",
        )
        stamp.write_text(recipe, encoding="utf-8")
        console.print(f"Built the environment of {short} in {(time.monotonic() - start) / 60:.1f} minutes.")
    return _checked(found)


def tracked_blobs(commit: str, folders: Sequence[str]) -> dict[str, str]:
    """Returns the blob ids by path of every file below the folders in a commit."""
    listed = _git(
        ["ls-tree", "-r", "-z", "--full-tree", commit, "--", *folders], f"{commit} cannot be listed"
    )
    blobs: dict[str, str] = {}
    for entry in filter(None, listed.split("\0")):
        about, _, path = entry.partition("\t")
        blobs[path] = about.split()[2]
    return blobs


def _git(arguments: Sequence[str], failure: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository()), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PeerError(
            f"{failure}{': ' if done.stderr else ''}{done.stderr.strip()}",
            fix="name a commit of this repository, or bring it with `git fetch --unshallow`",
        )
    return done.stdout


def _extract(commit: str, tree: Path) -> None:
    """Writes the tree of a commit into a folder."""
    archive = subprocess.run(
        ["git", "-C", str(repository()), "archive", commit], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(tree, filter="data")


def _named(root: Path, commit: str) -> Revision:
    python = root / ".venv" / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise PeerError(
            f"{VARIABLE} is {root}, which has no .venv",
            fix=f"run `make check` there, which makes it, or unset {VARIABLE}",
        )
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.stdout.strip() != commit:
        raise PeerError(
            f"{VARIABLE} is {root}, a checkout of {head.stdout.strip()[:12] or 'nothing'} and not of {commit[:12]}",
            fix=f"check {commit[:12]} out there, or unset {VARIABLE}",
        )
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    if changed.stdout.strip():
        raise PeerError(
            f"the checkout {root} that {VARIABLE} names has uncommitted changes",
            fix=f"commit or undo them there, or unset {VARIABLE}",
        )
    return Revision(commit[:12], commit, root, python)


def _checked(revision: Revision) -> Revision:
    """Refuses an interpreter that would import the package of another tree: both sides would be the same program."""
    where = Path(revision.output(["-c", _WHERE]).strip())
    if not where.resolve().is_relative_to(revision.root.resolve()):
        raise PeerError(
            f"{revision.python} imports {where.parent}, which is not in {revision.root}",
            fix=f"install the checkout: `make check` in {revision.root} does",
        )
    return revision
