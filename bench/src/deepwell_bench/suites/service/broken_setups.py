"""Set-ups that are broken for real: `deepwell doctor` has to find each, and what it says has to mend it.

Each is staged with the means that break it in life: a full disk is a file system of 8 MB, a wrong clock is libfaketime's, a
limit is the kernel's. Then the fix that doctor prints is carried out, as it stands there, and doctor must find nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell.settings import Settings
from deepwell_bench.harness.environments import PeerError

__all__ = ["bench_broken_setups"]

_SECONDS = 300
_PROGRAM = [sys.executable, "-m", "deepwell"]
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to start doctor.

    Attributes:
        home: the folder of this set-up alone.
        env: variables beside those of this process.
        prefix: command in front of doctor's, such as one that sets a limit.
        options: doctor's own options.
    """

    home: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    prefix: Sequence[str] = ()
    options: Sequence[str] = ()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `deepwell` with these arguments."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DEEPWELL_", "NCCL_", "GLOO_"))}
        kept = {k: v for k, v in kept.items() if "proxy" not in k.lower()}
        command = [*self.prefix, *_PROGRAM, *arguments]
        home = str(self.home)
        env = {**kept, "DEEPWELL_HOME": home, "HOME": home, "LC_ALL": "C.UTF-8", **self.env}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)

    def problems(self) -> list[dict[str, str]]:
        """Returns what doctor finds.

        Raises:
            PeerError: it prints no report.
        """
        done = self.run("doctor", *self.options, "--json")
        try:
            report = json.loads(done.stdout or done.stderr)
        except ValueError:
            raise PeerError(f"doctor printed no report: {done.stderr[-300:]}", fix="run it by hand") from None
        if "error" in report:  # settings that cannot be read are reported before anything else
            return [
                {
                    "check": "settings",
                    "message": report["error"]["message"],
                    "fix": report["error"].get("fix", ""),
                }
            ]
        return report["problems"]


Stage = Callable[[Setup], "Generator[tuple[Setup, Callable[[Setup, str], Setup]]]"]


def _with(setup: Setup, **env: str) -> Setup:
    return replace(setup, env={**setup.env, **env})


def _without(setup: Setup, *names: str) -> Setup:
    return replace(setup, env={k: v for k, v in setup.env.items() if k not in names})


def _commands(fix: str) -> list[str]:
    """Returns the commands that a fix quotes."""
    return re.findall(r"`([^`]+)`", fix)


def _carry_out(setup: Setup, fix: str) -> Setup:
    """Carries out the first command that a fix quotes: `deepwell` verbs, `unset`, `export`, or a program such as chmod."""
    for command in _commands(fix)[0].split(" && "):
        words = command.split()
        if words[0] == "unset":
            setup = _without(setup, *words[1:])
        elif words[0] == "export":
            name, _, value = words[1].partition("=")
            setup = _with(setup, **{name: value})
        elif words[0] == "deepwell":
            done = setup.run(*words[1:])
            if done.returncode and words[1] != "doctor":
                raise PeerError(f"`{command}` failed: {done.stderr[-300:]}", fix="run it by hand")
        else:
            subprocess.run([word for word in words if word != "sudo"], check=True, timeout=_SECONDS)
    return setup


def _option(setup: Setup, fix: str, name: str) -> Setup:
    """Adds the option that a fix names with its value."""
    value = re.search(rf"{name} (\S+?)[,.;:)]?(?:\s|$)", fix)
    if value is None:
        raise PeerError(f"the fix names no {name}: {fix}", fix="mend the message")
    return replace(setup, options=[*setup.options, name, value[1]])


def _keyed(setup: Setup) -> Path:
    """Makes a database with a key, and returns its path."""
    done = setup.run("keys", "create", "probe")
    if done.returncode:
        raise PeerError(f"no key could be made: {done.stderr[-300:]}", fix="run it by hand")
    return next(setup.home.rglob("deepwell.db"))


@contextmanager
def _no_model(setup: Setup) -> Generator[tuple[Setup, Any]]:
    yield _with(setup, DEEPWELL_MODELS_DIR=str(setup.home / "models")), _carry_out


@contextmanager
def _memory(setup: Setup) -> Generator[tuple[Setup, Any]]:
    def mend(broken: Setup, fix: str) -> Setup:
        return _option(_without(broken, "DEEPWELL_KV_TOKENS"), fix, "--kv-tokens")

    yield _with(setup, DEEPWELL_KV_TOKENS="20000000"), mend


@contextmanager
def _port(setup: Setup) -> Generator[tuple[Setup, Any]]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        def mend(broken: Setup, fix: str) -> Setup:
            return _option(_without(broken, "DEEPWELL_PORT"), fix, "--port")

        yield replace(_with(setup, DEEPWELL_PORT=str(taken.getsockname()[1])), options=()), mend


@contextmanager
def _disk(setup: Setup) -> Generator[tuple[Setup, Any]]:
    small = setup.home / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:

        def mend(broken: Setup, fix: str) -> Setup:
            name = re.search(r"(DEEPWELL_\w+)=", fix)
            return _with(broken, **{name[1] if name else "": str(setup.home / "larger")})

        yield _with(setup, DEEPWELL_DATA_DIR=str(small / "data")), mend
    finally:
        subprocess.run(["umount", str(small)], check=True)


@contextmanager
def _clock(setup: Setup) -> Generator[tuple[Setup, Any]]:
    if shutil.which("faketime") is None:
        raise PeerError("the clock is set back by faketime, which is missing", fix="apt-get install faketime")
    broken = replace(setup, prefix=["faketime", "-f", "-400d"])
    yield (
        broken,
        lambda setup, _fix: replace(setup, prefix=()),
    )  # the right time, as `timedatectl set-ntp true` brings it


@contextmanager
def _open_files(setup: Setup) -> Generator[tuple[Setup, Any]]:
    def mend(broken: Setup, _fix: str) -> Setup:
        return replace(
            broken, prefix=["prlimit", "--nofile=4096:4096"]
        )  # as LimitNOFILE= or --ulimit sets it

    yield replace(setup, prefix=["prlimit", "--nofile=256:256"]), mend


@contextmanager
def _threads(setup: Setup) -> Generator[tuple[Setup, Any]]:
    many = str(8 * (os.cpu_count() or 1))
    yield (
        _with(setup, DEEPWELL_THREADS=many),
        lambda broken, fix: _option(_without(broken, "DEEPWELL_THREADS"), fix, "--threads"),
    )


@contextmanager
def _kernels(setup: Setup) -> Generator[tuple[Setup, Any]]:
    yield _with(setup, DEEPWELL_ISA="generic"), _carry_out


@contextmanager
def _proxy(setup: Setup) -> Generator[tuple[Setup, Any]]:
    yield _with(setup, http_proxy="http://127.0.0.1:9"), _carry_out


@contextmanager
def _damaged_model(setup: Setup) -> Generator[tuple[Setup, Any]]:
    own = _with(setup, DEEPWELL_MODELS_DIR=str(setup.home / "models"))
    if own.run("pull", "smollm2").returncode:
        raise PeerError("smollm2 cannot be pulled", fix="run `deepwell pull smollm2`")
    weights = max((setup.home / "models" / "smollm2").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(weights, weights.stat().st_size // 2)
    yield own, _carry_out


@contextmanager
def _rights(setup: Setup) -> Generator[tuple[Setup, Any]]:
    _keyed(setup)
    data = next(setup.home.rglob("deepwell.db")).parent
    os.chown(data, _NOBODY, _NOBODY)
    data.chmod(0o700)
    # An administrator may read everything: doctor runs without that right.
    prefix = [
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        "--inh-caps=-dac_override,-dac_read_search",
    ]
    yield replace(setup, prefix=prefix), _carry_out


@contextmanager
def _readable(setup: Setup) -> Generator[tuple[Setup, Any]]:
    database = _keyed(setup)
    database.chmod(0o644)
    database.parent.chmod(0o755)

    def mend(broken: Setup, _fix: str) -> Setup:
        broken.run("doctor", "--fix")
        return broken

    yield setup, mend


@contextmanager
def _backed_up(setup: Setup, spoil: Callable[[Path], None]) -> Generator[tuple[Setup, Any]]:
    database = _keyed(setup)
    backup = setup.home / "backup.db"
    shutil.copyfile(database, backup)
    spoil(database)

    def restore(broken: Setup, _fix: str) -> Setup:
        for path in database.parent.glob("deepwell.db-*"):
            path.unlink()
        shutil.copyfile(backup, database)
        return broken

    yield setup, restore


def _overwrite(database: Path) -> None:
    for path in database.parent.glob("deepwell.db-*"):
        path.unlink()
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)


def _raise_version(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()


@contextmanager
def _damaged_database(setup: Setup) -> Generator[tuple[Setup, Any]]:
    with _backed_up(setup, _overwrite) as staged:
        yield staged


@contextmanager
def _newer_database(setup: Setup) -> Generator[tuple[Setup, Any]]:
    with _backed_up(setup, _raise_version) as staged:
        yield staged


@contextmanager
def _no_valkey(setup: Setup) -> Generator[tuple[Setup, Any]]:
    def mend(broken: Setup, fix: str) -> Setup:
        return _carry_out(broken, fix)

    yield _with(setup, DEEPWELL_VALKEY_URL="redis://127.0.0.1:9"), mend


@contextmanager
def _interface(setup: Setup) -> Generator[tuple[Setup, Any]]:
    yield _with(setup, GLOO_SOCKET_IFNAME="eth99"), _carry_out


@contextmanager
def _master(setup: Setup) -> Generator[tuple[Setup, Any]]:
    def mend(broken: Setup, fix: str) -> Setup:
        port = re.search(r"such as (\d+)", fix)
        return _with(broken, MASTER_ADDR="127.0.0.1", MASTER_PORT=port[1] if port else "")

    run = _with(setup, WORLD_SIZE="2", RANK="0", MASTER_ADDR="trainer-0.invalid", MASTER_PORT="29500")
    yield run, mend


@contextmanager
def _rank(setup: Setup) -> Generator[tuple[Setup, Any]]:
    def mend(broken: Setup, fix: str) -> Setup:
        return _without(broken, *_commands(fix)[-1].split()[1:])

    yield _with(setup, WORLD_SIZE="2", RANK="2"), mend


@contextmanager
def _term_list(setup: Setup) -> Generator[tuple[Setup, Any]]:
    store = setup.home / "models"
    store.mkdir()
    for path in Settings.load().models_dir.iterdir():
        if not path.name.startswith("."):
            (store / path.name).symlink_to(path)
    yield _with(setup, DEEPWELL_GUARD="cn-public", DEEPWELL_MODELS_DIR=str(store)), _carry_out


_SETUPS: Mapping[str, tuple[str, Any]] = {
    "no model": ("model", _no_model),
    "a cache larger than the memory": ("model", _memory),
    "the port is taken": ("server", _port),
    "a full disk": ("disk", _disk),
    "the clock is a year behind": ("clock", _clock),
    "256 open files": ("open files", _open_files),
    "eight threads a processor": ("threads", _threads),
    "slower kernels are forced": ("kernels", _kernels),
    "a proxy for this machine": ("proxy", _proxy),
    "a cut model file": ("models", _damaged_model),
    "a data folder of another user": ("data folder", _rights),
    "a database that everybody reads": ("data folder", _readable),
    "a damaged database": ("database", _damaged_database),
    "a database of a newer version": ("database", _newer_database),
    "no Valkey": ("valkey", _no_valkey),
    "a network interface that is not there": ("devices", _interface),
    "a meeting place that is not there": ("devices", _master),
    "a rank outside of the group": ("devices", _rank),
    "a term list that is not here": ("guard", _term_list),
}


def bench_broken_setups(report: Report) -> dict[str, Any]:
    """Stages every set-up, and counts those that doctor finds and whose fix leaves it nothing to find.

    Raises:
        PeerError: a set-up cannot be staged here.
    """
    rows: list[list[str]] = []
    store = str(Settings.load().models_dir)
    for name, (check, stage) in _SETUPS.items():
        with tempfile.TemporaryDirectory() as folder:
            base = Setup(Path(folder), {"DEEPWELL_MODELS_DIR": store}, options=("--port", "0"))
            if sound := base.problems():
                raise PeerError(f"the sound set-up has problems: {sound}", fix="run `deepwell doctor`")
            with stage(base) as (broken, mend):
                seen = broken.problems()
                problem = next((one for one in seen if one["check"] == check), None)
                left = seen if problem is None else mend(broken, problem["fix"]).problems()
        said = "not found" if problem is None else problem["message"][:60]
        rows.append(
            [name, said, "yes" if problem else "no", "yes" if not left else f"{left[0]['message'][:80]}"]
        )
        report.console.print(
            f"{name}: {'found' if problem else 'NOT FOUND'}, {left or 'mended'}", soft_wrap=True
        )
    report.table("Broken set-ups", ["set-up", "doctor says", "found", "mended"], rows)
    return {
        "setups": len(rows),
        "found": sum(row[2] == "yes" for row in rows),
        "mended": sum(row[3] == "yes" for row in rows),
        "not_mended": [row[0] for row in rows if row[3] != "yes"],
    }
