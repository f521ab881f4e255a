"""Staged losses of the state: each is refused or recovered, none is silent. `LOSSES` and its siblings are the table of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url
from tests.needs import ROOT
from tests.postgres import Server
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.errors import StorageError, StorageUnavailable
from deepwell.server.app import create_app
from deepwell.server.options import FileOptions
from deepwell.settings import Settings
from deepwell.storage.conversations import ConversationStore, StoredConversation
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.keys import KeyStore
from deepwell.storage.marker import Markers, StoreLost

A = Tenant("a")
WRITE_AND_DIE = """
import asyncio, os, signal, sys
from deepwell.settings import Settings
from deepwell.storage.conversations import ConversationStore, StoredConversation
from deepwell.storage.database import Database, Tenant

async def main():
    store = ConversationStore(Database.of(Settings()))
    for number in range(4):
        await store.create(Tenant("a"), StoredConversation(f"late-{number}", 1, "{}"), [])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
OPEN_AS_OTHER = """
import os, pwd, sys
from deepwell.errors import StorageError
from deepwell.messages import catalogue
from deepwell.settings import Settings
from deepwell.storage.database import Database
catalogue()  # the interpreter's own modules may be unreadable for the other user
user = pwd.getpwnam("nobody")
settings = Settings()
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
try:
    Database.of(settings)
except StorageError as error:
    print("refused:", error)
"""


class Installed:
    """A store with a key, a conversation and a file, whose server has been stopped."""

    def __init__(self, folder: Path, database_url: str | None = None) -> None:
        self.folder = folder
        self.settings = Settings(
            data_dir=folder / "data", state_dir=folder / "state", database_url=database_url
        )  # type: ignore[arg-type]
        self.data = folder / "data"
        self.file = self.data / "deepwell.db"
        self.markers = Markers.of(self.settings)
        self.made: list[str] = []
        database = self.open()
        KeyStore(database).create(A, "first", ["inference"])
        asyncio.run(self._fill(database, "conversation"))
        asyncio.run(self._add_file(database))
        database.close()

    def open(self, *, init: bool = False) -> Database:
        return Database.of(self.settings, init=init)

    def write(self, name: str) -> None:
        """Lets a server run once more, and add a conversation."""
        database = self.open()
        asyncio.run(self._fill(database, name))
        database.close()

    async def _fill(self, database: Database, name: str) -> None:
        await ConversationStore(database).create(A, StoredConversation(name, 1, "{}"), [])
        self.made.append(name)

    async def _add_file(self, database: Database) -> None:
        source = self.folder / "source"
        source.write_bytes(b"bytes")
        await FileStore(database, self.data / "files").create(
            A, filename="f", purpose="user_data", content=source
        )

    def all_is_there(self, database: Database) -> bool:
        async def look() -> bool:
            store = ConversationStore(database)
            for name in self.made:
                await store.get(A, name)
            return await KeyStore(database).any()

        return asyncio.run(look())

    def sql(self, *statements: str) -> None:
        """Changes the file behind the server's back."""
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    def environment(self) -> dict[str, str]:
        places = {"DEEPWELL_DATA_DIR": str(self.data), "DEEPWELL_STATE_DIR": str(self.folder / "state")}
        return {**os.environ, **places}

    def die_writing(self) -> None:
        """A server adds conversations and is killed: the newest are in the write-ahead log alone."""
        done = subprocess.run(
            [sys.executable, "-c", WRITE_AND_DIE], env=self.environment(), capture_output=True, text=True
        )
        assert done.returncode == -9, done.stderr
        self.made += [f"late-{number}" for number in range(4)]
        assert self.beside("-wal").stat().st_size

    def beside(self, suffix: str) -> Path:
        return self.file.with_name(self.file.name + suffix)


def other(one: Installed, *, keys: bool) -> Path:
    """The data of another installation."""
    folder = one.folder / "other"
    settings = Settings(data_dir=folder / "data", state_dir=folder / "state")
    database = Database.of(settings)
    if keys:
        KeyStore(database).create(A, "other", ["inference"])
    database.close()
    return folder / "data"


def truncate(path: Path, bytes: int) -> None:
    os.truncate(path, bytes)


def remove_file(one: Installed) -> None:
    one.file.unlink()


def empty_file(one: Installed) -> None:
    truncate(one.file, 0)


def replace_by_keyless(one: Installed) -> None:
    shutil.copy(other(one, keys=False) / "deepwell.db", one.file)


def replace_by_keyed(one: Installed) -> None:
    shutil.copy(other(one, keys=True) / "deepwell.db", one.file)


def restore_older_file(one: Installed) -> None:
    shutil.copy(one.file, one.folder / "backup")
    one.write("later")
    shutil.copy(one.folder / "backup", one.file)


def restore_older_folder(one: Installed) -> None:
    shutil.copytree(one.data, one.folder / "backup")
    one.write("later")
    shutil.rmtree(one.data)
    (one.folder / "backup").rename(one.data)


def halve_file(one: Installed) -> None:
    truncate(one.file, one.file.stat().st_size // 8192 * 4096)


def keep_one_page(one: Installed) -> None:
    truncate(one.file, 4096)


def keep_half_a_page(one: Installed) -> None:
    truncate(one.file, 2048)


def write_garbage(one: Installed) -> None:
    one.file.write_bytes(os.urandom(65536))


def remove_folder(one: Installed) -> None:
    shutil.rmtree(one.data)


def empty_folder(one: Installed) -> None:
    shutil.rmtree(one.data)
    one.data.mkdir()


def replace_folder(one: Installed) -> None:
    found = other(one, keys=True)
    shutil.rmtree(one.data)
    found.rename(one.data)


def remove_blobs(one: Installed) -> None:
    shutil.rmtree(one.data / "files")


def empty_blobs(one: Installed) -> None:
    shutil.rmtree(one.data / "files")
    (one.data / "files").mkdir()


def remove_inner_marker(one: Installed) -> None:
    one.markers.inside.forget()


def remove_outer_marker(one: Installed) -> None:
    one.markers.outside.forget()


def remove_markers(one: Installed) -> None:
    one.markers.forget()


def remove_file_and_inner_marker(one: Installed) -> None:
    remove_file(one)
    remove_inner_marker(one)


def remove_file_and_outer_marker(one: Installed) -> None:
    remove_file(one)
    remove_outer_marker(one)


def damage_markers(one: Installed) -> None:
    for marker in (one.markers.inside, one.markers.outside):
        marker.path.write_bytes(b"\0" * 99)


def damage_markers_and_remove_file(one: Installed) -> None:
    damage_markers(one)
    remove_file(one)


def damage_markers_and_replace_file(one: Installed) -> None:
    damage_markers(one)
    replace_by_keyless(one)


def delete_keys(one: Installed) -> None:
    one.sql("DELETE FROM api_keys")


def delete_all_rows(one: Installed) -> None:
    with closing(sqlite3.connect(one.file)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
    own = [name for name in names if name not in ("alembic_version", "sqlite_sequence")]
    one.sql(*(f"DELETE FROM {name}" for name in own))


def drop_revision(one: Installed) -> None:
    one.sql("DROP TABLE alembic_version")


def delete_revision(one: Installed) -> None:
    one.sql("DELETE FROM alembic_version")


def drop_all_tables(one: Installed) -> None:
    with closing(sqlite3.connect(one.file)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
    one.sql("PRAGMA foreign_keys=OFF", *(f"DROP TABLE {name}" for name in names if name != "sqlite_sequence"))


def delete_identity(one: Installed) -> None:
    one.sql("DELETE FROM installation")


def set_future_revision(one: Installed) -> None:
    one.sql("UPDATE alembic_version SET version_num = '9999'")


def put_folder_in_the_way(one: Installed) -> None:
    one.file.unlink()
    one.file.mkdir()


def lose_the_log(one: Installed) -> None:
    one.die_writing()
    one.beside("-wal").unlink()


def lose_the_log_and_its_index(one: Installed) -> None:
    one.die_writing()
    one.beside("-wal").unlink()
    one.beside("-shm").unlink()


def cut_the_log(one: Installed) -> None:
    one.die_writing()
    truncate(one.beside("-wal"), 32 + 4120)


def garble_the_log(one: Installed) -> None:
    one.die_writing()
    size = one.beside("-wal").stat().st_size
    one.beside("-wal").write_bytes(os.urandom(size))


def lose_the_index(one: Installed) -> None:
    one.die_writing()
    one.beside("-shm").unlink()


def be_killed(one: Installed) -> None:
    one.die_writing()


def copy_file(one: Installed) -> None:
    shutil.copy(one.file, one.folder / "copy")
    (one.folder / "copy").rename(one.file)


def move_folder(one: Installed) -> None:
    one.data.rename(one.folder / "moved")
    one.data = one.folder / "moved"
    one.file = one.data / "deepwell.db"
    one.settings = one.settings.model_copy(update={"data_dir": one.data})


def move_folder_and_lose_file(one: Installed) -> None:
    move_folder(one)
    remove_file(one)


LOSSES: dict[Callable[[Installed], None], type[StorageError] | None] = {
    remove_file: StoreLost,
    empty_file: StoreLost,
    replace_by_keyless: StoreLost,
    replace_by_keyed: StoreLost,
    restore_older_file: StoreLost,
    restore_older_folder: StoreLost,
    halve_file: StorageError,
    keep_one_page: StorageError,
    keep_half_a_page: StorageError,
    write_garbage: StorageError,
    remove_folder: StoreLost,
    empty_folder: StoreLost,
    replace_folder: StoreLost,
    remove_blobs: StoreLost,
    empty_blobs: StoreLost,
    remove_inner_marker: None,
    remove_outer_marker: None,
    remove_markers: None,
    remove_file_and_inner_marker: StoreLost,
    remove_file_and_outer_marker: StoreLost,
    damage_markers: None,
    damage_markers_and_remove_file: StoreLost,
    damage_markers_and_replace_file: StoreLost,
    delete_keys: StoreLost,
    delete_all_rows: StoreLost,
    drop_revision: StorageError,
    delete_revision: StorageError,
    drop_all_tables: StoreLost,
    delete_identity: StoreLost,
    set_future_revision: StorageError,
    put_folder_in_the_way: StorageError,
    lose_the_log: StoreLost,
    lose_the_log_and_its_index: StoreLost,
    cut_the_log: StoreLost,
    garble_the_log: StoreLost,
    lose_the_index: None,
    be_killed: None,
    copy_file: None,
    move_folder: None,
    move_folder_and_lose_file: StoreLost,
}
"""Losses while no server runs, and the end of the next start: refused with this error, or None: all is there."""


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_loss_while_no_server_runs(lose: Callable[[Installed], None], tmp_path: Path) -> None:
    one = Installed(tmp_path)
    lose(one)
    expected = LOSSES[lose]
    if expected is None:
        database = one.open()
        assert one.all_is_there(database)
        database.close()
        assert len(Markers.of(one.settings).read()) == 2  # both are there again
        return
    for _ in range(2):  # and refusing changes nothing
        with pytest.raises(expected) as refused:
            one.open().close()
        assert refused.value.fix
        if expected is StoreLost:
            assert "--init" in refused.value.fix


@pytest.mark.parametrize(
    "lose",
    [remove_file, replace_by_keyed, restore_older_file, remove_blobs, delete_all_rows, garble_the_log],
    ids=lambda lose: lose.__name__,
)
def test_a_loss_is_accepted_with_init(lose: Callable[[Installed], None], tmp_path: Path) -> None:
    one = Installed(tmp_path)
    lose(one)
    one.open(init=True).close()
    one.open().close()


@pytest.mark.needs(ROOT)
@pytest.mark.parametrize("readable", [False, True], ids=["unreadable", "read-only"])
def test_another_user_is_refused(tmp_path: Path, readable: bool) -> None:
    one = Installed(tmp_path)
    for folder in (one.data, *one.data.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    if readable:
        for path in one.data.iterdir():
            if path.is_file():
                path.chmod(0o644)
    environment = one.environment() | {
        "HOME": str(tmp_path / "home"),
        "DEEPWELL_STATE_DIR": str(tmp_path / "none"),
    }
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AS_OTHER], env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("refused:"), done.stderr


def test_a_fresh_folder_starts_without_keys(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    for _ in range(2):
        database = Database.of(settings)
        assert not asyncio.run(KeyStore(database).any())
        database.close()
    assert not (tmp_path / "state").exists()  # nothing there is worth remembering


def test_a_database_without_keys_is_missed_too_while_its_folder_is_there(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    Database.of(settings).close()
    (tmp_path / "data" / "deepwell.db").unlink()
    with pytest.raises(StoreLost):
        Database.of(settings)
    shutil.rmtree(tmp_path / "data")  # a folder that is new is new
    Database.of(settings).close()


# ---- while a server runs


def unlink(one: Installed) -> None:
    one.file.unlink()


def put_another_in_place(one: Installed) -> None:
    (other(one, keys=True) / "deepwell.db").rename(one.file)


def put_a_copy_in_place(one: Installed) -> None:
    copy_file(one)


def move_folder_away(one: Installed) -> None:
    one.data.rename(one.folder / "away")


def unlink_log(one: Installed) -> None:
    one.beside("-wal").unlink()


def unlink_index(one: Installed) -> None:
    one.beside("-shm").unlink()


def empty_in_place(one: Installed) -> None:
    truncate(one.file, 0)


LIVE = [
    unlink,
    put_another_in_place,
    put_a_copy_in_place,
    move_folder_away,
    remove_folder,
    empty_folder,
    unlink_log,
    unlink_index,
    empty_in_place,
]
"""Losses of a database's file while a server runs: nothing is acknowledged from then on."""


class Running:
    """A server in this process on an installed store."""

    def __init__(self, one: Installed, codec: Path) -> None:
        self.database = one.open()
        options = FileOptions(folder=one.data / "files")
        service = make_service(
            FakeEngine(), make_codec(codec), model="toy", database=self.database, files=options
        )
        self.readable = KeyStore(self.database).create(A, "live", ["inference", "files"])[1]
        self.app = create_app(service)

    async def ask(self, method: str, path: str, **more: object) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {self.readable}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return await client.request(method, path, **more)  # type: ignore[arg-type]


@pytest.fixture
def fresh_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/readyz` looks each time."""
    monkeypatch.setattr("deepwell.server.families.health.readiness.CACHED_S", 0.0)


@pytest.mark.usefixtures("fresh_looks")
@pytest.mark.parametrize("lose", LIVE, ids=lambda lose: lose.__name__)
async def test_a_loss_while_a_server_runs(
    lose: Callable[[Installed], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = await asyncio.to_thread(Installed, tmp_path)
    server = await asyncio.to_thread(Running, one, tmp_path / "codec")
    made = await server.ask("POST", "/v1/conversations", json={})
    assert made.status_code == 200 and (await server.ask("GET", "/readyz")).status_code == 200
    lose(one)
    answers = [
        await server.ask("GET", "/readyz"),
        await server.ask("POST", "/v1/conversations", json={}),
        await server.ask("GET", f"/v1/conversations/{made.json()['id']}"),
        await server.ask("POST", "/v1/files", data={"purpose": "user_data"}, files={"file": ("f", b"x")}),
        await server.ask("GET", "/readyz"),
    ]
    assert [answer.status_code for answer in answers] == [503] * 5
    assert all("while the server runs" in answer.json()["error"]["message"] for answer in answers)
    assert "nothing of this change was kept" in answers[1].json()["error"]["message"]
    noticed = [record for record in caplog.records if "while it was open" in record.message]
    assert len(noticed) == 1  # said once, not for every request
    with pytest.raises(StorageUnavailable):
        await ConversationStore(server.database).create(A, StoredConversation("x", 1, "{}"), [])
    server.database.close()


@pytest.mark.usefixtures("fresh_looks")
async def test_a_file_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    one = await asyncio.to_thread(Installed, tmp_path)
    server = await asyncio.to_thread(Running, one, tmp_path / "codec")
    one.data.rename(tmp_path / "away")
    assert (await server.ask("POST", "/v1/conversations", json={})).status_code == 503
    (tmp_path / "away").rename(one.data)
    assert (await server.ask("POST", "/v1/conversations", json={})).status_code == 200
    assert (await server.ask("GET", "/readyz")).status_code == 200
    server.database.close()


@pytest.mark.usefixtures("fresh_looks")
@pytest.mark.parametrize("statement", ["DELETE FROM api_keys", "DELETE FROM installation"])
async def test_a_database_that_is_emptied_under_a_server(statement: str, tmp_path: Path) -> None:
    one = await asyncio.to_thread(Installed, tmp_path)
    server = await asyncio.to_thread(Running, one, tmp_path / "codec")
    await server.database.record()  # of the key
    one.sql(statement)
    assert (await server.ask("GET", "/readyz")).status_code == 503
    with pytest.raises(StorageUnavailable, match="emptied or replaced"):
        await ConversationStore(server.database).create(A, StoredConversation("x", 1, "{}"), [])
    server.database.close()


# ---- PostgreSQL


@pytest.fixture
def on_postgres(postgres: Server, tmp_path: Path) -> Iterator[tuple[Installed, Server, str]]:
    url = postgres.create()
    name = str(make_url(url).database)
    yield Installed(tmp_path, url), postgres, name
    postgres.sql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def drop(server: Server, name: str) -> None:
    server.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")


def drop_and_make(server: Server, name: str) -> None:
    drop(server, name)
    server.sql("postgres", f"CREATE DATABASE {name}")


def truncate_tables(server: Server, name: str) -> None:
    server.sql(
        name,
        "DO $$ DECLARE one text; BEGIN FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
        "AND tablename <> 'alembic_version' LOOP EXECUTE 'TRUNCATE ' || one || ' CASCADE'; END LOOP; END $$",
    )


def drop_schema(server: Server, name: str) -> None:
    server.sql(name, "DROP SCHEMA public CASCADE")
    server.sql(name, "CREATE SCHEMA public")


def delete_stored_keys(server: Server, name: str) -> None:
    server.sql(name, "DELETE FROM api_keys")


def go_back(server: Server, name: str) -> None:
    server.sql(name, "UPDATE installation SET generation = generation - 1")


def drop_stored_revision(server: Server, name: str) -> None:
    server.sql(name, "DROP TABLE alembic_version")


def become_another(server: Server, name: str) -> None:
    server.sql(name, "UPDATE installation SET id = repeat('0', 32)")


STORED: dict[Callable[[Server, str], None], type[StorageError]] = {
    drop: StorageError,
    drop_and_make: StoreLost,
    truncate_tables: StoreLost,
    drop_schema: StoreLost,
    delete_stored_keys: StoreLost,
    go_back: StoreLost,
    drop_stored_revision: StorageError,
    become_another: StoreLost,
}
"""Losses of a PostgreSQL database while no server runs, and the error of the next start."""


@pytest.mark.parametrize(
    ("lose", "without"),
    [*((lose, "nothing") for lose in STORED), (drop_and_make, "data_dir"), (drop_and_make, "state_dir")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_loss_in_postgresql(
    lose: Callable[[Server, str], None], without: str, on_postgres: tuple[Installed, Server, str]
) -> None:
    one, server, name = on_postgres
    if without != "nothing":
        shutil.rmtree(one.folder / without.removesuffix("_dir"))
    lose(server, name)
    with pytest.raises(STORED[lose]) as refused:
        one.open().close()
    assert refused.value.fix and "s3cret" not in str(refused.value)


def test_a_postgresql_database_is_itself_under_another_user(
    on_postgres: tuple[Installed, Server, str],
) -> None:
    one, server, name = on_postgres
    server.sql("postgres", f"CREATE ROLE guest_{name} LOGIN SUPERUSER PASSWORD 'guest'")
    again = make_url(server.url(name)).set(username=f"guest_{name}", password="guest")
    settings = Settings(
        data_dir=one.data,
        state_dir=one.folder / "state",
        database_url=again.render_as_string(hide_password=False),
    )  # type: ignore[arg-type]
    assert Markers.of(settings).outside.path == one.markers.outside.path
    database = Database.of(settings)
    assert one.all_is_there(database)
    database.close()


LOST_LIVE = [drop, drop_and_make, truncate_tables, drop_schema, delete_stored_keys, go_back, become_another]


@pytest.mark.usefixtures("fresh_looks")
@pytest.mark.parametrize("lose", LOST_LIVE, ids=lambda lose: lose.__name__)
async def test_a_loss_in_postgresql_while_a_server_runs(
    lose: Callable[[Server, str], None], on_postgres: tuple[Installed, Server, str], tmp_path: Path
) -> None:
    one, postgres, name = on_postgres
    server = await asyncio.to_thread(Running, one, tmp_path / "codec")
    await server.database.record()
    assert (await server.ask("GET", "/readyz")).status_code == 200
    await asyncio.to_thread(lose, postgres, name)
    assert (await server.ask("GET", "/readyz")).status_code == 503
    answer = await server.ask("POST", "/v1/conversations", json={})
    assert answer.status_code == 503, answer.text
    await asyncio.to_thread(server.database.close)
