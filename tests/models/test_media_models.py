"""Models of other kinds than text: npm packages, entries of several sources, and the error of a model that cannot chat."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import pytest
from tests.models.http_files import FileServer

from deepwell.dialogue.opening import check_servable
from deepwell.errors import DeepwellError, DownloadError, InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.kinds import SPEECH_MODEL, kind_of
from deepwell.models.store import npm
from deepwell.models.store.catalog import CatalogEntry, read_catalog, shipped_catalog
from deepwell.models.store.download import silent
from deepwell.models.store.fetched import FetchOptions
from deepwell.models.store.npm import NpmSource
from deepwell.models.store.sources import parse_source
from deepwell.models.store.store import ModelStore

WHISPER = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(64)
VOICE = b"voice" * 100


def tarball(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)
    return out.getvalue()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def publish(server: FileServer, body: bytes) -> None:
    server.put_json("/voices/1.0.0", {"dist": {"tarball": f"{server.url}/voices.tgz"}})
    server.files["/voices.tgz"] = body


@pytest.fixture
def registry(file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """A registry of npm, on a machine without npm."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", file_server.url)
    return file_server


def test_the_pinned_files_of_a_package_are_fetched_and_no_others(
    registry: FileServer, tmp_path: Path
) -> None:
    publish(
        registry,
        tarball({"package/voices/a.bin": VOICE, "package/index.js": b"x", "package/LICENSE": b"mine"}),
    )
    options = FetchOptions({"voices/a.bin": sha256(VOICE)})
    fetched = NpmSource("voices", "1.0.0", "package/").fetch(tmp_path, silent, options)
    assert fetched.files == ("LICENSE", "voices/a.bin") and fetched.revision == "1.0.0"
    assert (tmp_path / "voices" / "a.bin").read_bytes() == VOICE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LICENSE", "voices"]
    fetched = NpmSource("voices", "1.0.0", "package/index.js").fetch(tmp_path, silent)
    assert fetched.files == ("index.js",)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not a package",
        tarball({"package/voices/a.bin": VOICE})[:60],
        tarball({"package/other.bin": VOICE}),
        tarball({}, links={"package/voices/a.bin": "/etc/passwd"}),
        tarball({"package/../voices/a.bin": VOICE}),
    ],
    ids=["empty", "no archive", "cut", "other members", "a link", "a way out"],  # gzip has the time in it
)
def test_a_package_that_is_not_sound_is_refused(registry: FileServer, tmp_path: Path, body: bytes) -> None:
    publish(registry, body)
    source = NpmSource("voices", "1.0.0", "package/voices/a.bin")
    with pytest.raises(InvalidModelFile):
        source.fetch(tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_a_package_may_not_unpack_without_end(
    registry: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, tarball({"package/voices/a.bin": bytes(1 << 20)}))
    monkeypatch.setattr(npm, "MAX_UNPACKED_BYTES", 1 << 19)
    with pytest.raises(InvalidModelFile, match="unpacked"):
        NpmSource("voices", "1.0.0", "package/voices/a.bin").fetch(tmp_path, silent)


def test_a_registry_that_does_not_answer_is_named(registry: FileServer, tmp_path: Path) -> None:
    registry.put_json("/voices/1.0.0", {"dist": {"tarball": "file:///etc/passwd"}})
    with pytest.raises(DownloadError, match="does not say where"):
        NpmSource("voices", "1.0.0", "package/a").fetch(tmp_path, silent)
    with pytest.raises(DownloadError):
        NpmSource("absent", "1.0.0", "package/a").fetch(tmp_path, silent)


@pytest.mark.parametrize(
    "text",
    ["npm:voices", "npm:voices==1.0.0", "npm:voices#a", "npm:../voices==1.0.0#a", "npm:--help==1.0.0#a"],
)
def test_an_npm_source_names_a_package_a_version_and_a_member(text: str) -> None:
    with pytest.raises(InvalidRequest, match="npm:package==version#member"):
        parse_source(text)
    assert parse_source("npm:@scope/voices==1.0.0#package/") == NpmSource(
        "@scope/voices", "1.0.0", "package/"
    )


def entry_of(server: FileServer, tmp_path: Path, *, onnx: bytes = b"onnx") -> CatalogEntry:
    server.files[f"/{SPEECH_MODEL}"] = onnx
    publish(server, tarball({"package/voices/a.bin": VOICE}))
    text = f"""
[reader]
kind = "speech"
summary = "a reader"
[[reader.groups]]
sources = ["{server.url}/{SPEECH_MODEL}#sha256={sha256(b"onnx")}"]
file = "{SPEECH_MODEL}"
sha256 = "{sha256(b"onnx")}"
[[reader.groups]]
sources = ["npm:voices==1.0.0#package/"]
[reader.groups.files]
"voices/a.bin" = "{sha256(VOICE)}"
"""
    (tmp_path / "catalog.toml").write_text(text)
    return read_catalog(tmp_path / "catalog.toml")["reader"]


def test_an_entry_of_several_sources_brings_all_of_its_files(registry: FileServer, tmp_path: Path) -> None:
    entry = entry_of(registry, tmp_path)
    assert entry.pin == "sha256" and entry.pins.keys() == {SPEECH_MODEL, "voices/a.bin"}
    store = ModelStore(tmp_path / "models")
    stored = store.pull("reader", catalog={"reader": entry}, check=check_servable)
    assert stored.manifest is not None and stored.manifest.architecture == "kokoro"
    assert {file.name for file in stored.manifest.files} == entry.pins.keys()
    assert "npm:voices" in stored.manifest.source and registry.url in stored.manifest.source
    assert sorted(path.name for path in stored.path.iterdir()) == [SPEECH_MODEL, "manifest.json", "voices"]
    assert store.pull("reader", catalog={"reader": entry}).manifest == stored.manifest


def test_a_pull_of_several_sources_goes_on_with_those_that_are_missing(
    registry: FileServer, tmp_path: Path
) -> None:
    entry, store = entry_of(registry, tmp_path), ModelStore(tmp_path / "models")
    package = registry.files.pop("/voices.tgz")
    with pytest.raises(DownloadError):
        store.pull("reader", catalog={"reader": entry})
    registry.files["/voices.tgz"] = package
    del registry.files[f"/{SPEECH_MODEL}"]  # it is here already
    assert store.pull("reader", catalog={"reader": entry}).name == "reader"


def test_a_wrong_file_of_one_source_stops_the_pull(registry: FileServer, tmp_path: Path) -> None:
    entry = entry_of(registry, tmp_path, onnx=b"another")
    store = ModelStore(tmp_path / "models")
    with pytest.raises(DeepwellError, match="sha256"):
        store.pull("reader", catalog={"reader": entry})
    assert store.names() == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('kind = "video"\nsources = ["hf:a/b"]', "kind"),
        ("groups = 3", "groups"),
        ('groups = [{ sources = ["hf:a/b"] }]', "without files"),
        ('groups = [{ sources = ["hf:a/b"], file = "a", sha256 = "0", kind = "text" }]', "'kind'"),
        (
            f'sources = ["hf:a/b"]\ngroups = [{{ sources = ["hf:a/b"], file = "a", sha256 = "{"0" * 64}" }}]',
            "groups",
        ),
        (f'sources = ["hf:a/b"]\nfiles = {{ "../a" = "{"0" * 64}" }}', "plain name"),
    ],
)
def test_an_entry_that_is_not_sound_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "catalog.toml").write_text(f"[mine]\n{text}\n")
    with pytest.raises(InvalidRequest, match=told):
        read_catalog(tmp_path / "catalog.toml")


def recogniser(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "vocabulary.txt").write_text("a\n")
    (folder / "model.bin").write_bytes(WHISPER)
    (folder / "notes.txt").write_text("mine")
    return folder


def test_a_folder_of_a_recognition_model_is_pulled_with_the_files_that_it_needs(tmp_path: Path) -> None:
    folder = recogniser(tmp_path / "heard")
    stored = ModelStore(tmp_path / "models").pull(str(folder), check=check_servable)
    assert stored.manifest is not None and stored.manifest.architecture == "whisper"
    assert {file.name for file in stored.manifest.files} == {
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.txt",
    }
    assert kind_of(stored.path) == "recognition"


def test_a_model_of_another_kind_says_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="recordings into text") as raised:
        open_checkpoint(recogniser(tmp_path / "heard"))
    assert "deepwell media transcribe FILE --model heard" in raised.value.fix
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / SPEECH_MODEL).write_bytes(b"onnx")
    with pytest.raises(UnsupportedModel, match="text into speech"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "header", [b"", WHISPER[:9], b"\x80\x04" + WHISPER, struct.pack("<IH", 6, 500) + b"WhisperSpec\0"]
)
def test_a_file_that_only_is_named_so_is_no_recognition_model(tmp_path: Path, header: bytes) -> None:
    folder = recogniser(tmp_path / "heard")
    (folder / "model.bin").write_bytes(header)
    assert kind_of(folder) == "text"


def test_the_shipped_media_models_pin_every_file() -> None:
    catalog = {name: entry for name, entry in shipped_catalog().items() if entry.kind != "text"}
    assert {name: entry.kind for name, entry in catalog.items()} == {
        "whisper-tiny.en": "recognition",
        "whisper-base": "recognition",
        "kokoro": "speech",
        "opennsfw": "image-safety",
    }
    assert all(entry.pin == "sha256" for entry in catalog.values())
    assert SPEECH_MODEL in catalog["kokoro"].pins
