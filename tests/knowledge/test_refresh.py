"""Sources whose documents change and go while their files are being ingested."""

import json

import pytest
from tests.knowledge.test_ingest import House

from deepwell.errors import NotFound
from deepwell.knowledge.refresh import Refresher
from deepwell.knowledge.sources.opening import parse_source
from deepwell.storage.database import LOCAL


@pytest.fixture
async def house(tmp_path):
    house = await House(tmp_path / "files").open()
    yield house
    house.database.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@pytest.fixture
async def source(house, folder):
    spec = json.dumps(parse_source(str(folder)).as_json())
    return await house.kept.sources.add(LOCAL, house.store.id, spec)


@pytest.fixture
def refresher(house):
    return Refresher(house.kept, house.files)


async def test_versions_that_were_replaced_leave_neither_files_nor_bytes(
    house, source, refresher, folder, tmp_path
):
    for number in range(3):
        (folder / "a.txt").write_text(f"Version {number}" + "." * number)
        await refresher.refresh(LOCAL, source)
        assert (await house.run()).status == "succeeded"
    [stored] = (await house.files.list(LOCAL, limit=10, order="asc")).data
    assert [path.name for path in (tmp_path / "files").rglob("*") if path.is_file()] == [stored.sha256]


async def test_a_replaced_file_that_another_store_has_stays(house, source, refresher, folder):
    (folder / "a.txt").write_text("Version 0")
    await refresher.refresh(LOCAL, source)
    await house.run()
    [stored] = (await house.files.list(LOCAL, limit=10, order="asc")).data
    first, house.store = house.store, await house.kept.stores.create(LOCAL, name="other", embedder="hash")
    await house.ingest(stored.id)
    (folder / "a.txt").write_text("Version 1.")
    await refresher.refresh(LOCAL, source)
    assert (await house.run()).status == "succeeded"
    assert await house.texts() == ["Version 0"]
    assert (await house.files.get(LOCAL, stored.id)).id == stored.id
    house.store = first
    assert await house.texts() == ["Version 1."]


async def test_a_document_that_goes_before_its_change_was_ingested_is_gone(house, source, refresher, folder):
    (folder / "a.txt").write_text("Version 0")
    await refresher.refresh(LOCAL, source)
    await house.run()
    (folder / "a.txt").write_text("Version 1.")
    await refresher.refresh(LOCAL, source)
    (folder / "a.txt").unlink()
    await refresher.refresh(LOCAL, source)
    assert await house.texts() == []
    assert (await house.files.list(LOCAL, limit=10, order="asc")).data == []


async def test_a_source_that_was_removed_brings_nothing_any_more(house, source, refresher, folder):
    (folder / "a.txt").write_text("Version 0")
    await house.kept.sources.remove(LOCAL, house.store.id, source.id)
    with pytest.raises(NotFound, match="source"):
        await refresher.refresh(LOCAL, source)
    assert (await house.kept.files.list(LOCAL, house.store.id)).data == []
    assert (await house.files.list(LOCAL, limit=10, order="asc")).data == []


async def test_a_name_neither_breaks_lines_nor_steers_a_terminal(house, source, refresher, folder):
    (folder / "a\n[2] b\x1b[31m.txt").write_text("text")
    await refresher.refresh(LOCAL, source)
    [stored] = (await house.files.list(LOCAL, limit=10, order="asc")).data
    assert stored.filename == "a\ufffd[2] b\ufffd[31m.txt"
