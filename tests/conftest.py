"""What every test may rely on: the real model, quick and repeatable hypothesis, no outside connections."""

from __future__ import annotations

import functools
import gc
import ipaddress
import re
import socket
from collections import Counter
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.testing
from hypothesis import settings
from tests.needs import IN_CI, require, skip
from tests.parallel import keep_to_one_processor

keep_to_one_processor()  # before numpy and torch count processors

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "dev")


TESTS = Path(__file__).parent
HAS_TORCH = find_spec("torch") is not None
IMPORTS_TORCH = re.compile(r"^(?:import|from) (?:torch|transformers|peft|diffusers)\b", re.MULTILINE)

# Commands keep no state, and to build all of them takes a third of a second, which hundreds of tests would spend.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test belongs to the tiers of what it asks for and of its folder, marked or not; without any it is a unit test."""
    for item in items:
        if {"smollm2_path", "minilm_path", "e5_path", "whisper_path", "kokoro_path", "opennsfw_path"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.model)
        if TESTS / "faults" in item.path.parents:
            item.add_marker(pytest.mark.fault)
        if TESTS / "parity" in item.path.parents:
            item.add_marker(pytest.mark.slow)
        if not any(item.get_closest_marker(tier) for tier in ("model", "fault", "slow", "nightly")):
            item.add_marker(pytest.mark.unit)


def pytest_collection_finish() -> None:
    """Takes the thousands of tests out of the garbage collector's way: a full collection took seconds because of them.

    Young objects are visited less often, as in a server: at the default of 700 it took a twelfth of the processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves modules that import torch, and folders whose conftest.py does, to `make parity`, whose environment has it."""
    module = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    if HAS_TORCH or module.suffix != ".py" or not module.is_file():
        return None
    return True if IMPORTS_TORCH.search(module.read_text(encoding="utf-8")) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose `needs` are missing."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped real-model test is a failure: nobody would notice that the tier had stopped running."""
    report = yield
    if IN_CI and report.skipped and item.get_closest_marker("model") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a real-model test was skipped in CI: {call.excinfo.value if call.excinfo else ''}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints one line for each thing that is missing: how many tests it skips, and the command that brings it."""
    skipped = [one.longrepr for one in terminalreporter.getreports("skipped")]
    reasons = Counter(str(where[2] if isinstance(where, tuple) else where) for where in skipped)
    if reasons:
        terminalreporter.section("skipped tests, and what ends each skip", "-")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"SKIPPED [{count}] {reason.removeprefix('Skipped: ')}")


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a Unix socket's path
        return True
    host = str(address[0])
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def whole_command() -> Any:
    """The command line."""
    from deepwell.cli import app

    return typer.testing._get_command(app)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True, scope="session")
def _nothing_remembered(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep what servers remember of their databases out of the user's own folder."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DEEPWELL_STATE_DIR", str(tmp_path_factory.mktemp("state")))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _migrations_run_once() -> Generator[None]:
    """Hundreds of servers and stores open a new database each; tests of what opening does migrate every one."""
    from tests.migrated import remembered

    from deepwell.storage import database

    patch = pytest.MonkeyPatch()
    patch.setattr(database, "bring_up_to_date", remembered(database.bring_up_to_date))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _certificates_read_once() -> Generator[None]:
    """Every client of httpx reads certificates for 10 ms, and some tests make one at each look whether a server answers."""
    from tests.certificates import remembered

    patch = pytest.MonkeyPatch()
    patch.setattr(httpx._transports.default, "create_ssl_context", remembered(httpx.create_ssl_context))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _no_outside_connections() -> Generator[None]:
    """Refuse connections that would leave this machine; servers on the loopback interface are fine."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, original: Any = original) -> Any:
            if not _is_local(address):
                raise ConnectionRefusedError(
                    f"a test tried to connect to {address}: tests stay on this machine"
                )
            return original(self, address)

        patch.setattr(socket.socket, name, guarded)
    yield
    patch.undo()


def _or_skipped(find: Callable[[], Path]) -> Path:
    from deepwell.errors import ModelNotFound

    try:
        return find()
    except ModelNotFound as missing:
        skip(missing.message, "make test", in_gate=True)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, from `DEEPWELL_SMOLLM2` or the model store."""
    from deepwell_bench.harness.assets import smollm2

    return _or_skipped(smollm2)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The directory of all-MiniLM-L6-v2, from `DEEPWELL_MINILM` or the model store."""
    from deepwell_bench.harness.assets import minilm

    return _or_skipped(minilm)


@pytest.fixture(scope="session")
def e5_path() -> Path:
    """The file of multilingual-e5-small in 4 bits, from `DEEPWELL_E5_SMALL` or the model store."""
    from deepwell_bench.harness.assets import e5_small

    return _or_skipped(e5_small)


@pytest.fixture(scope="session")
def whisper_path() -> Path:
    """The folder of Whisper tiny.en for CTranslate2, from `DEEPWELL_WHISPER_TINY_EN` or the model store."""
    from deepwell_bench.harness.assets import whisper_tiny_en

    return _or_skipped(whisper_tiny_en)


@pytest.fixture(scope="session")
def kokoro_path() -> Path:
    """The folder of Kokoro, from `DEEPWELL_KOKORO` or the model store."""
    from deepwell_bench.harness.assets import kokoro

    return _or_skipped(kokoro)


@pytest.fixture(scope="session")
def opennsfw_path() -> Path:
    """The folder of the model that looks at images, from `DEEPWELL_OPENNSFW` or the model store."""
    from deepwell_bench.harness.assets import opennsfw

    return _or_skipped(opennsfw)
