"""Markers remember what they were told, whatever is written into them, and a database only ever moves on."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from deepwell.errors import InvalidRequest
from deepwell.settings import Settings
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.marker import Marker, Markers, Memory, StoreLost

pytestmark = pytest.mark.usefixtures("every_database_is_migrated")

ids = st.text("0123456789abcdef", min_size=32, max_size=32)
memories = st.builds(Memory, ids, st.booleans(), st.booleans(), st.integers(0, 2**63))


@given(memory=memories, later=st.integers(0, 2**63))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_marker_reads_as_it_was_written(memory: Memory, later: int, tmp_path: Path) -> None:
    marker = Marker(tmp_path / "deep" / "marker")
    marker.write(memory)
    assert marker.read() == memory
    marker.advance(later)
    assert marker.read() == Memory(memory.id, memory.keys, memory.files, later)
    assert [path.name for path in marker.path.parent.iterdir()] == ["marker"]


@given(memory=memories, cut=st.integers(0, 98), junk=st.binary(max_size=120))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_marker_still_asks_for_keys(memory: Memory, cut: int, junk: bytes, tmp_path: Path) -> None:
    marker = Marker(tmp_path / "marker")
    marker.write(memory)
    text = marker.path.read_bytes()
    for damaged in (text[:cut], junk, text + b"x", text[:cut] + b"\0" + text[cut + 1 :]):
        marker.path.write_bytes(damaged)
        assert marker.read() == Memory("", keys=True)
    marker.forget()
    marker.forget()
    assert marker.read() is None


def test_processes_never_take_back_what_another_has_remembered(tmp_path: Path) -> None:
    markers = Markers.of(Settings(data_dir=tmp_path / "data", state_dir=tmp_path / "state"))
    markers.remember(Memory("a" * 32, keys=True, files=True, generation=7))
    markers.remember(Memory("a" * 32, keys=False, files=False, generation=5))
    assert markers.read() == [Memory("a" * 32, keys=True, files=True, generation=7)] * 2
    markers.remember(Memory("b" * 32, keys=False, generation=1))
    assert markers.inside.read() == Memory("b" * 32, generation=1)


def test_a_folder_that_cannot_hold_a_marker_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file")
    settings = Settings(data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    for _ in range(2):
        database = Database.of(settings)
        KeyStore(database).create(Tenant("a"), "n", ["inference"])
        database.close()
    said = [record.message for record in caplog.records if "DEEPWELL_STATE_DIR" in record.message]
    assert 1 <= len(said) <= 3


class Copies(RuleBasedStateMachine):
    """A database under starts, writes and restored copies: a start is refused exactly where the newest state is not there."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        self.settings = Settings(data_dir=root / "data", state_dir=root / "state")
        self.file = root / "data" / "deepwell.db"
        self.copies: list[tuple[bytes, int]] = []
        self.newest = 0  # counts the states that there have been
        self.held = 0  # the state in the file

    def open(self, *, init: bool = False) -> Database:
        database = Database.of(self.settings, init=init)
        self.newest += 1
        self.held = self.newest
        return database

    @initialize()
    def make(self) -> None:
        self.write()

    @precondition(lambda self: self.held == self.newest)
    @rule()
    def write(self) -> None:
        database = self.open()
        KeyStore(database).create(Tenant("a"), "n", ["inference"])
        with pytest.raises(InvalidRequest):
            KeyStore(database).create(Tenant("a"), "", ["inference"])
        database.close()

    @rule()
    def copy(self) -> None:
        self.copies.append((self.file.read_bytes(), self.held))

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        content, self.held = data.draw(st.sampled_from(self.copies))
        self.file.write_bytes(content)

    @rule()
    def accept(self) -> None:
        self.open(init=True).close()

    @rule()
    def start(self) -> None:
        if self.held == self.newest:
            self.open().close()
            return
        for _ in range(2):
            with pytest.raises(StoreLost):
                Database.of(self.settings)

    def teardown(self) -> None:
        self._folder.cleanup()


TestCopies = Copies.TestCase
TestCopies.settings = settings(max_examples=8, stateful_step_count=8, deadline=None)
