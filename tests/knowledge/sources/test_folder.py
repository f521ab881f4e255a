"""`Folder`: every file once, what is skipped is said, a missing folder removes nothing, and changes are seen as they happen."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace

import pytest
import watchfiles

from deepwell.knowledge.sources.folder import Folder
from deepwell.knowledge.sources.opening import open_source, parse_source
from deepwell.knowledge.sources.options import FolderOptions
from deepwell.knowledge.sources.source import Change

QUICK = {"settle_s": 0.02}


def folder(path: Path, *, single: bool = False, max_bytes: int = 1 << 20, **options: object) -> Folder:
    return Folder(path, FolderOptions(**{**QUICK, **options}), max_bytes=max_bytes, single=single)  # type: ignore[arg-type]


async def scanned(source: Folder, known: dict[str, str] | None = None) -> dict[str, Change]:
    """The changes of a scan by the last part of their addresses."""
    changes = [change async for change in source.scan(known or {})]
    assert len({change.uri for change in changes}) == len(changes)
    return {change.uri.removeprefix(source.uri).strip("/"): change for change in changes}


def kinds(changes: dict[str, Change]) -> dict[str, str]:
    return {name: change.kind for name, change in changes.items()}


def versions(changes: dict[str, Change]) -> dict[str, str]:
    return {change.uri: change.version for change in changes.values() if change.version}


async def test_a_scan_tells_what_changed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.md").write_text("one")
    (tmp_path / "two words.txt").write_text("two")
    first = await scanned(folder(tmp_path))
    assert kinds(first) == {"a/one.md": "added", "two%20words.txt": "added"}
    fetched = first["two%20words.txt"].fetched
    assert fetched is not None
    assert (fetched.filename, fetched.content) == ("two words.txt", b"two")

    known = versions(first)
    (tmp_path / "a" / "one.md").write_text("uno")  # as long as before
    (tmp_path / "two words.txt").unlink()
    (tmp_path / "three.md").write_text("three")
    second = await scanned(folder(tmp_path), known)
    assert kinds(second) == {"a/one.md": "changed", "two%20words.txt": "removed", "three.md": "added"}
    assert kinds(await scanned(folder(tmp_path), versions(second))) == {
        "a/one.md": "unchanged",
        "three.md": "unchanged",
    }


async def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("one")
    state = path.stat()
    known = versions(await scanned(folder(tmp_path)))
    path.write_text("two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert kinds(await scanned(folder(tmp_path), known)) == {"a.md": "changed"}


async def test_what_is_skipped_is_said(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "out"
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "config").write_text("hidden")
    (root / "sub").mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (root / ".hidden.md").write_text("hidden")
    (root / "draft.md~").write_text("backup")
    (root / "~$report.docx").write_text("lock")
    (root / "real.md").write_text("real")
    (root / "alias.md").symlink_to("real.md")
    (root / "escape.txt").symlink_to(outside / "secret.txt")
    (root / "escape").symlink_to(outside)
    (root / "inner").symlink_to("sub")
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    found = await scanned(folder(root))
    assert kinds(found) == {
        "real.md": "added",
        "alias.md": "added",
        ".git": "skipped",
        ".hidden.md": "skipped",
        "draft.md~": "skipped",
        "~%24report.docx": "skipped",
        "escape.txt": "skipped",
        "escape": "skipped",
        "inner": "skipped",
        "loop": "failed",
        "pipe": "skipped",
    }
    assert found["escape"].reason == "a link that leads out of the folder"
    assert all(change.reason for change in found.values() if change.kind == "skipped")


async def test_patterns_choose_files(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "guides/c.md", "guides/old/d.md", "node_modules/e.md", "guides/f.pdf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    source = folder(tmp_path, include=["*.md", "guides/*.pdf"], exclude=["node_modules", "guides/**/d.md"])
    assert kinds(await scanned(source)) == {"a.md": "added", "guides/c.md": "added", "guides/f.pdf": "added"}


async def test_one_bad_file_never_stops_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "big.bin").write_bytes(bytes(2000))
    (tmp_path / "z.md").write_text("z")
    found = await scanned(folder(tmp_path, max_bytes=1000))
    assert kinds(found) == {"a.md": "added", "big.bin": "failed", "z.md": "added"}
    assert "0.0 MB" in str(found["big.bin"].error)


async def test_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"bytes")
    found = await scanned(folder(tmp_path))
    assert kinds(found) == {"caf%E9.txt": "added"}
    fetched = found["caf%E9.txt"].fetched
    assert fetched is not None
    assert fetched.filename == "caf\ufffd.txt"


async def test_a_missing_folder_removes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    (root / "a.md").write_text("a")
    known = versions(await scanned(folder(root)))
    root.rename(tmp_path / "elsewhere")
    found = await scanned(folder(root), known)
    assert kinds(found) == {"": "failed"}
    (tmp_path / "elsewhere").rename(root)
    (root / "a.md").unlink()
    assert kinds(await scanned(folder(root), known)) == {"a.md": "removed"}


async def test_an_unreadable_folder_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("a")
    known = versions(await scanned(folder(tmp_path)))
    (tmp_path / "open" / "a.md").unlink()
    scandir = os.scandir

    def refused(path: Path) -> object:  # root may read everything: permissions would not do
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert kinds(await scanned(folder(tmp_path), known)) == {"closed": "failed", "open/a.md": "removed"}


async def test_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "b.md").write_text("b")
    source = open_source(parse_source(str(tmp_path / "a.md"), ["settle_s=0.02"]))
    changes = [change async for change in source.scan({})]
    assert [(change.kind, change.uri) for change in changes] == [("added", source.uri)]
    (tmp_path / "a.md").unlink()
    changes = [change async for change in source.scan({source.uri: "old"})]
    assert [(change.kind, change.uri) for change in changes] == [("removed", source.uri)]


async def test_a_file_that_never_rests_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.knowledge.sources.folder._PATIENCE_S", 0.1)
    # By a clock that is behind the file system's, no file has rested. So only a change between two looks counts.
    monkeypatch.setattr("deepwell.knowledge.sources.tree.time", SimpleNamespace(time=lambda: 0.0))
    (tmp_path / "a.md").write_text("a")
    log = tmp_path / "growing.log"
    log.write_text("")
    stop = asyncio.Event()

    async def write() -> None:
        for seconds in itertools.count():  # so that every look finds another version
            if stop.is_set():
                return
            with log.open("a") as file:
                file.write("line\n")
            os.utime(log, (seconds, seconds))
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    found = await scanned(folder(tmp_path, settle_s=0.05))
    stop.set()
    await writer
    assert kinds(found) == {"a.md": "added", "growing.log": "failed"}
    assert "written all the time" in str(found["growing.log"].error)


class Watched:
    """The changes of a watched folder, as they come."""

    def __init__(self, changes: AsyncGenerator[Change], root: Path) -> None:
        self._changes = changes
        self._root = root.as_uri()
        self.seen: list[tuple[str, str]] = []
        self.contents: dict[str, bytes] = {}

    async def until(self, fits: Callable[[Watched], bool]) -> None:
        """Take changes until they fit."""
        async with asyncio.timeout(
            120
        ):  # longer than the time between two scans, which find what events leave out
            while not fits(self):
                change = await anext(self._changes)
                name = change.uri.removeprefix(self._root).strip("/")
                self.seen.append((change.kind, name))
                if change.fetched:
                    self.contents[name] = change.fetched.content
                if change.kind == "removed":
                    self.contents.pop(name)

    async def have(self, **contents: bytes) -> None:
        """Take changes until the folder's files have these contents; `__` in a name is a dot."""
        expected = {name.replace("__", "."): content for name, content in contents.items()}
        await self.until(lambda watched: watched.contents == expected)


async def test_changes_are_seen_as_they_happen(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("old")
    async with aclosing(folder(tmp_path).watch({})) as changes:
        watched = Watched(changes, tmp_path)
        await watched.have(old__md=b"old")
        (tmp_path / "new.md").write_text("new")
        await watched.have(old__md=b"old", new__md=b"new")
        (tmp_path / "new.md").write_text("newer")
        await watched.have(old__md=b"old", new__md=b"newer")
        (tmp_path / "new.md").rename(tmp_path / "moved.md")
        await watched.have(old__md=b"old", moved__md=b"newer")
        (tmp_path / "old.md").unlink()
        await watched.have(moved__md=b"newer")


async def test_an_editors_atomic_save_is_one_change(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("one")
    async with aclosing(folder(tmp_path).watch({})) as changes:
        watched = Watched(changes, tmp_path)
        await watched.have(a__md=b"one")
        path.rename(tmp_path / "a.md~")  # as vim and emacs do
        path.write_text("two")
        (tmp_path / "a.md~").unlink()
        await watched.have(a__md=b"two")
        (tmp_path / ".a.md.tmp").write_text("three")  # as VS Code and rsync do
        (tmp_path / ".a.md.tmp").replace(path)
        await watched.have(a__md=b"three")
        kinds = [kind for kind, name in watched.seen if name == "a.md"]
        assert kinds == ["added", "changed", "changed"]


async def test_folders_that_come_and_go(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    root.mkdir()
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "a.md").write_text("a")
    (outside / "b.md").write_text("b")
    async with aclosing(folder(root).watch({})) as changes:
        watched = Watched(changes, root)
        (root / "first.md").write_text("first")
        await watched.until(lambda watched: "first.md" in watched.contents)
        outside.rename(root / "inside")
        await watched.until(
            lambda watched: set(watched.contents) == {"first.md", "inside/deep/a.md", "inside/b.md"}
        )
        (root / "inside" / "deep" / "c.md").write_text("c")
        await watched.until(lambda watched: "inside/deep/c.md" in watched.contents)
        (root / "inside").rename(outside)
        await watched.until(lambda watched: set(watched.contents) == {"first.md"})
        shutil.copytree(outside, root / "copy" / "again")
        await watched.until(lambda watched: len(watched.contents) == 4)


async def test_a_folder_that_vanishes_and_returns(tmp_path: Path) -> None:
    root, away = tmp_path / "disk", tmp_path / "away"
    root.mkdir()
    (root / "a.md").write_text("a")
    (root / "b.md").write_text("b")
    async with aclosing(folder(root).watch({})) as changes:
        watched = Watched(changes, root)
        await watched.have(a__md=b"a", b__md=b"b")
        root.rename(away)
        await watched.until(lambda watched: ("failed", "") in watched.seen)
        assert not any(kind == "removed" for kind, _ in watched.seen)
        (away / "b.md").unlink()
        away.rename(root)
        await watched.have(a__md=b"a")
        (root / "c.md").write_text("c")
        await watched.have(a__md=b"a", c__md=b"c")
        assert [kind for kind, name in watched.seen if not name] == ["failed"]


async def test_watching_begins_with_what_changed_before(tmp_path: Path) -> None:
    (tmp_path / "same.md").write_text("same")
    (tmp_path / "gone.md").write_text("gone")
    known = versions(await scanned(folder(tmp_path)))
    (tmp_path / "gone.md").unlink()
    (tmp_path / "new.md").write_text("new")
    async with aclosing(folder(tmp_path).watch(known)) as changes:
        first, second = await anext(changes), await anext(changes)
    assert {(first.kind, Path(first.uri).name), (second.kind, Path(second.uri).name)} == {
        ("added", "new.md"),
        ("removed", "gone.md"),
    }


async def test_a_link_whose_file_is_swapped(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap so: names are links to `..data/NAME`, and `..data` is swapped for another folder."""
    for number in ("1", "2"):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "a.md").write_text(number)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.md").symlink_to("..data/a.md")
    async with aclosing(folder(tmp_path).watch({})) as changes:
        watched = Watched(changes, tmp_path)
        await watched.have(a__md=b"1")
        (tmp_path / "..next").symlink_to("..2")
        (tmp_path / "..next").replace(tmp_path / "..data")
        await watched.have(a__md=b"2")


async def test_events_that_got_lost_are_found_by_the_next_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = watchfiles.watch

    def deaf(*paths: Path, **options: object) -> object:
        for batch in listen(*paths, **options):  # type: ignore[arg-type]
            yield set() if batch else batch

    monkeypatch.setattr(watchfiles, "watch", deaf)
    async with aclosing(folder(tmp_path, rescan_s=0.3).watch({})) as changes:
        watched = Watched(changes, tmp_path)
        (tmp_path / "a.md").write_text("a")
        await watched.have(a__md=b"a")
        (tmp_path / "b.md").write_text("b")
        await watched.have(a__md=b"a", b__md=b"b")


async def test_a_link_to_the_folder_is_watched(tmp_path: Path) -> None:
    release = tmp_path / "release-1"
    release.mkdir()
    link = tmp_path / "current"
    link.symlink_to(release)
    async with aclosing(folder(link).watch({})) as changes:
        watched = Watched(changes, link)
        (release / "a.md").write_text("a")
        await watched.have(a__md=b"a")
        (release / "b.md").write_text("b")
        await watched.have(a__md=b"a", b__md=b"b")
        following = tmp_path / "release-2"
        following.mkdir()
        (following / "b.md").write_text("bb")
        (tmp_path / "next").symlink_to(following)
        (tmp_path / "next").replace(link)
        await watched.have(b__md=b"bb")


async def test_stopping_stops_the_thread(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    async with aclosing(folder(tmp_path).watch({})) as changes:
        await anext(changes)
        assert any(thread.name == "deepwell-watch" for thread in threading.enumerate())
        task = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not any(thread.name == "deepwell-watch" for thread in threading.enumerate())
