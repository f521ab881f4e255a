"""New revisions of stored models, against small servers of this machine that speak the sources' APIs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.models.builders import TINY, write_model_directory
from tests.models.http_files import FileServer, serve_files
from tests.models.test_sources import git_blob, publish_hub
from tests.server.fakes import VOCAB, write_tokenizer

from deepwell.errors import InvalidModelFile, ModelNotFound
from deepwell.models.revisions.look import look_for_updates, watched_sources
from deepwell.models.revisions.news import ModelNews, Report, SourceNews
from deepwell.models.revisions.package_news import PackageIndex
from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.models.store.store import ModelStore

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve_files() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
        monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/simple/")
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", served.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def manifest_of(source: str, files: dict[str, bytes], **changes: Any) -> Manifest:
    listed = tuple(ModelFile(n, len(b), hashlib.sha256(b).hexdigest()) for n, b in files.items())
    made = Manifest("m", source, "", "apache-2.0", "llama", None, "2026-01-01T00:00:00+00:00", listed)
    return replace(made, **changes)


def stored(root: Path, source: str, files: dict[str, bytes], name: str = "m", **changes: Any) -> ModelStore:
    """A store that already holds a model of these files."""
    folder = root / name
    for file, body in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(body)
    manifest_of(source, files, name=name, **changes).write(folder)
    return ModelStore(root)


def template_config(template: str) -> bytes:
    return json.dumps({"chat_template": template}).encode()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer_config.json": template_config("{{ old }}"),
    "model.safetensors": b"weights" * 1000,
}


def publish(
    server: FileServer,
    files: dict[str, bytes],
    *,
    commit: str = NEW,
    at: str = "main",
    licence: str = "apache-2.0",
) -> None:
    """Puts files on the hub at a commit, to which a branch points."""
    publish_hub(server, files)
    listing = server.files.pop("/api/models/org/m/tree/" + "c" * 40)
    server.files[f"/api/models/org/m/tree/{commit}"] = listing
    about = {"sha": commit, "lastModified": "2026-11-03T09:00:00.000Z", "tags": [f"license:{licence}"]}
    server.put_json(f"/api/models/org/m/revision/{at}", about)
    for name in files:
        body = server.files.pop(f"/org/m/resolve/{'c' * 40}/{name}")
        server.files[f"/org/m/resolve/{commit}/{name}"] = body


def news_of(store: ModelStore, name: str = "m", **options: Any) -> SourceNews:
    report = look_for_updates(store, [name], **options)
    return report.models[0].sources[0]


# Hubs


def test_a_repository_at_the_same_commit_is_current(server: FileServer, tmp_path: Path) -> None:
    publish(server, FILES, commit=OLD)
    news = news_of(stored(tmp_path, "hf:org/m", FILES, revision=OLD))
    assert (news.state, news.before, news.now) == ("current", OLD, OLD)
    assert news.changed == "2026-11-03T09:00:00+00:00"


def test_a_new_revision_is_told_in_full_without_its_weights(server: FileServer, tmp_path: Path) -> None:
    now = {
        **FILES,
        "tokenizer_config.json": template_config("{{ new }}"),
        "model.safetensors": b"others" * 2000,
        "generation_config.json": b"{}",
        "README.md": b"# words",
    }
    publish(server, FILES, commit=OLD, at=OLD)
    publish(server, now, licence="other")
    store = stored(tmp_path, "hf:org/m", FILES, revision=OLD, template_hash=sha256("{{ old }}"))
    news = news_of(store)
    assert (news.state, news.before, news.now) == ("new", OLD, NEW)
    assert {one.name: one.kind for one in news.files} == {
        "generation_config.json": "added",
        "model.safetensors": "changed",
        "tokenizer_config.json": "changed",
    }
    weights = next(one for one in news.files if one.name == "model.safetensors")
    assert (weights.size_before, weights.size_now) == (7000, 12000)
    assert weights.hash_now == f"sha256:{hashlib.sha256(now['model.safetensors']).hexdigest()}"
    small = next(one for one in news.files if one.name == "tokenizer_config.json")
    assert small.hash_before == f"git:{git_blob(FILES['tokenizer_config.json'])}"
    assert news.licence is not None and (news.licence.before, news.licence.now) == ("apache-2.0", "other")
    assert news.template is not None
    assert (news.template.before, news.template.now) == (sha256("{{ old }}"), sha256("{{ new }}"))
    assert news.fetch == f"hf:org/m@{NEW}"
    assert server.sent_bytes < 6000  # the documents of the hub and the small file, but no weights


def test_a_revision_of_other_words_alone_is_no_news(server: FileServer, tmp_path: Path) -> None:
    publish(server, FILES, commit=OLD, at=OLD)
    publish(server, {**FILES, "README.md": b"# better words"})
    report = look_for_updates(stored(tmp_path, "hf:org/m", FILES, revision=OLD))
    assert report.models[0].state == "moved" and report.models[0].newest is None


def test_a_file_that_is_gone_is_told(server: FileServer, tmp_path: Path) -> None:
    publish(server, FILES, commit=OLD, at=OLD)
    publish(server, {name: body for name, body in FILES.items() if name != "config.json"})
    news = news_of(stored(tmp_path, "hf:org/m", FILES, revision=OLD))
    assert [(one.name, one.kind) for one in news.files] == [("config.json", "removed")]


def test_a_branch_is_followed_where_the_source_names_one(server: FileServer, tmp_path: Path) -> None:
    publish(server, {**FILES, "config.json": b"{}"}, at="v2")
    news = news_of(stored(tmp_path, "hf:org/m@v2", FILES, revision=OLD))
    assert (news.state, news.now) == ("new", NEW)


@pytest.mark.parametrize(("said", "template"), [("{{ new }}", True), (None, False)])
def test_one_gguf_file_is_watched_alone(
    server: FileServer, tmp_path: Path, said: str | None, template: bool
) -> None:
    files = {"m-q4.gguf": b"q4" * 100, "m-q8.gguf": b"q8" * 100}
    publish(server, {"m-q4.gguf": b"Q4" * 100, "m-q8.gguf": b"Q8" * 200, "m-q2.gguf": b"?"})
    if said is not None:
        about = json.loads(server.files["/api/models/org/m/revision/main"])
        server.put_json("/api/models/org/m/revision/main", {**about, "gguf": {"chat_template": said}})
    mine = {"m-q4.gguf": files["m-q4.gguf"]}
    store = stored(tmp_path, "hf:org/m#m-q4.gguf", mine, revision=OLD, template_hash=sha256("{{ old }}"))
    news = news_of(store)
    assert [one.name for one in news.files] == ["m-q4.gguf"]
    assert (news.template is not None) == template
    assert ("template" in news.unsaid) == (not template)
    assert news.fetch == f"hf:org/m@{NEW}#m-q4.gguf"


def test_modelscope_is_compared_by_its_hashes(server: FileServer, tmp_path: Path) -> None:
    def publish_there(files: dict[str, bytes], licence: str) -> None:
        entries = [
            {"Path": name, "Type": "blob", "Size": len(body), "Sha256": hashlib.sha256(body).hexdigest()}
            | {"CommittedDate": 1_780_000_000}
            for name, body in files.items()
        ]
        server.put_json("/api/v1/models/org/m", {"Data": {"License": licence}})
        server.put_json("/api/v1/models/org/m/repo/files", {"Data": {"Files": entries}})

    store = stored(tmp_path, "ms:org/m", FILES, revision="master", template_hash=sha256("{{ old }}"))
    publish_there(FILES, "Apache-2.0")
    assert news_of(store).state == "current"
    publish_there({**FILES, "model.safetensors": b"new" * 9}, "Apache-2.0")
    news = news_of(store)
    assert (news.state, [one.name for one in news.files]) == ("new", ["model.safetensors"])
    assert news.changed == "2026-05-28T20:26:40+00:00" and news.fetch == "ms:org/m"
    publish_there(FILES, "MIT")
    assert news_of(store).licence is not None


def test_the_token_of_a_hub_stays_with_it(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    publish(server, FILES)
    server.files["/m.gguf"] = b"GGUF"
    store = stored(tmp_path, "hf:org/m", FILES, revision=OLD)
    news_of(store)
    assert set(server.tokens) == {"Bearer hf_secret"}
    server.tokens.clear()
    news_of(stored(tmp_path, f"{server.url}/m.gguf", {"m.gguf": b"GGUF"}, "url"), "url")
    assert set(server.tokens) == {None}
    assert "secret" not in (tmp_path / "m" / "manifest.json").read_text()


# Packages


def wheel(server: FileServer, version: str, licence: str, **changes: Any) -> dict[str, Any]:
    name = f"some_model-{version}-py3-none-any.whl"
    server.files[f"/files/{name}.metadata"] = f"Name: some-model\nLicense-Expression: {licence}\n".encode()
    entry = {
        "filename": name,
        "url": f"{server.url}/files/{name}",
        "hashes": {"sha256": sha256(version)},
        "size": 1000 + len(version),
        "upload-time": "2026-02-07T07:03:18.840953Z",
        "core-metadata": True,
        "yanked": False,
    }
    return entry | changes


def publish_package(server: FileServer, entries: list[dict[str, Any]]) -> None:
    server.put_json("/simple/some-model/", {"files": entries})


def test_a_newer_release_of_a_package(server: FileServer, tmp_path: Path) -> None:
    entries = [
        wheel(server, "0.9", "MIT"),
        wheel(server, "0.10", "Apache-2.0"),
        wheel(server, "0.11", "MIT", yanked="broken"),
        wheel(server, "1.0rc1", "MIT"),
    ]
    publish_package(server, entries)
    source = "pypi:some_model==0.9#some_model/m.gguf"
    news = news_of(stored(tmp_path, source, {"m.gguf": b"GGUF"}, revision="0.9"))
    assert (news.state, news.before, news.now) == ("new", "0.9", "0.10")
    assert news.changed == "2026-02-07T07:03:18+00:00"
    (file,) = news.files
    assert (file.name, file.size_before, file.size_now) == ("some_model-0.10-py3-none-any.whl", 1003, 1004)
    assert file.hash_now == f"sha256:{sha256('0.10')}"
    assert news.licence is not None and (news.licence.before, news.licence.now) == ("MIT", "Apache-2.0")
    assert set(news.unsaid) == {"files", "template"}
    assert news.fetch == "pypi:some_model==0.10#some_model/m.gguf"


def test_the_newest_release_is_current(server: FileServer, tmp_path: Path) -> None:
    publish_package(server, [wheel(server, "0.9", "MIT"), wheel(server, "0.10", "MIT")])
    source = "pypi:some-model==0.10#some_model/m.gguf"
    assert news_of(stored(tmp_path, source, {"m.gguf": b"GGUF"}, revision="0.10")).state == "current"


def test_an_index_with_a_password_keeps_it(server: FileServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", server.url.replace("://", "://ada:geheim@") + "/simple")
    publish_package(server, [wheel(server, "0.9", "MIT"), wheel(server, "1.0", "MIT")])
    store = stored(tmp_path, "pypi:some-model==0.9#some_model/m.gguf", {"m.gguf": b"GGUF"})
    assert news_of(store).now == "1.0"
    assert f"Basic {base64.b64encode(b'ada:geheim').decode()}" in server.tokens
    server.files["/simple/some-model/"] = b"<html>"
    report = look_for_updates(store)
    assert report.models[0].state == "unasked"
    assert "geheim" not in json.dumps(report.to_json())
    assert PackageIndex.of("https://host/simple/") == PackageIndex("https://host/simple")


def test_an_npm_package(server: FileServer, tmp_path: Path) -> None:
    digest = base64.b64encode(b"x" * 64).decode()
    new = {
        "version": "1.3.0",
        "license": "MIT",
        "dist": {"unpackedSize": 20, "integrity": f"sha512-{digest}"},
    }
    server.put_json("/some-voice/latest", new)
    server.put_json("/some-voice/1.2.1", {"version": "1.2.1", "license": "Apache-2.0", "dist": {}})
    store = stored(tmp_path, "npm:some-voice==1.2.1#package/", {"v.bin": b"v"}, revision="1.2.1")
    news = news_of(store)
    assert (news.state, news.now, news.files[0].size_now) == ("new", "1.3.0", 20)
    assert news.files[0].hash_now == f"sha512:{(b'x' * 64).hex()}"
    assert news.licence is not None and news.licence.now == "MIT"
    server.put_json("/some-voice/latest", {**new, "version": "1.2.1"})
    assert news_of(store).state == "current"


# Links and paths


@pytest.mark.parametrize("knows_head", [True, False])
def test_a_url_is_compared_by_its_entity_tag(server: FileServer, tmp_path: Path, knows_head: bool) -> None:
    server.knows_head = knows_head
    server.files["/m.gguf"] = b"old" * 100
    tag = f'"{hashlib.md5(b"old" * 100).hexdigest()}"'
    store = stored(tmp_path, f"{server.url}/m.gguf", {"m.gguf": b"old" * 100}, revision=tag)
    assert news_of(store).state == "current"
    server.files["/m.gguf"] = b"new" * 100
    news = news_of(store)
    assert (news.state, news.before) == ("new", tag) and news.now != tag
    assert (news.files[0].size_before, news.files[0].size_now) == (300, 300)


@pytest.mark.parametrize(
    ("modified", "state"),
    [("Sun, 01 Nov 2026 00:00:00 GMT", "new"), ("Wed, 01 Jan 2025 00:00:00 GMT", "current")],
)
def test_a_url_without_a_known_tag_is_compared_by_its_time(
    server: FileServer, tmp_path: Path, modified: str, state: str
) -> None:
    server.knows_head, server.modified, server.sends_etag = True, modified, False
    server.files["/m.gguf"] = b"same" * 100
    assert news_of(stored(tmp_path, f"{server.url}/m.gguf", {"m.gguf": b"same" * 100})).state == state


def test_a_pull_of_a_url_keeps_the_tag_that_the_next_look_compares(
    server: FileServer, tmp_path: Path
) -> None:
    from tests.models.builders import write_model_gguf

    model = write_model_gguf(tmp_path / "m.gguf")
    server.knows_head, server.files["/m.gguf"] = True, model.read_bytes()
    store = ModelStore(tmp_path / "store")
    assert (made := store.pull(f"{server.url}/m.gguf").manifest) is not None and made.revision
    assert news_of(store).state == "current"
    server.files["/m.gguf"] += b"more"
    assert news_of(store).state == "new"


def test_a_local_path_needs_no_network(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "m")
    model = write_model_directory(tmp_path / "m", replace(TINY, vocab_size=VOCAB))
    store = ModelStore(tmp_path / "store")
    store.pull(str(model))
    assert news_of(store, offline=True).state == "current"
    (model / "config.json").write_text("{}")
    news = news_of(store, offline=True)
    assert news.state == "new" and [one.name for one in news.files] == ["config.json"]


# What cannot be asked


def test_a_closed_host_is_tried_once_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("a", "b", "c"):
        store = stored(tmp_path, "hf:org/m", FILES, name, revision=OLD)
    report = look_for_updates(store)
    assert {one.state for one in report.models} == {"unasked"}
    for model in report.models:
        (news,) = model.sources
        assert news.key == "hub_unreachable" and "127.0.0.1" in news.reason and news.fix
        assert news.said("zh")[0].startswith("无法连接")


def test_settings_that_forbid_the_network_are_kept(server: FileServer, tmp_path: Path) -> None:
    store = stored(tmp_path, "hf:org/m", FILES, revision=OLD)
    news = news_of(store, offline=True)
    assert news.state == "unasked" and news.key == "updates_offline" and not server.tokens


def test_a_look_ends_in_time(server: FileServer, tmp_path: Path) -> None:
    publish(server, FILES)
    assert news_of(stored(tmp_path, "hf:org/m", FILES), most_s=-1).key == "updates_late"


def test_one_damaged_manifest_hides_no_other(server: FileServer, tmp_path: Path) -> None:
    publish(server, FILES, commit=OLD)
    stored(tmp_path, "hf:org/m", FILES, "bad")
    (tmp_path / "bad" / "manifest.json").write_text("{")
    store = stored(tmp_path, "hf:org/m", FILES, "good", revision=OLD)
    states = {one.name: one.state for one in look_for_updates(store).models}
    assert states == {"bad": "unasked", "good": "current"}
    with pytest.raises(ModelNotFound):
        look_for_updates(store, ["none"])


def hostile(server: FileServer, path: str, body: bytes) -> None:
    server.files[path] = body


HUB, TREE = "/api/models/org/m/revision/main", f"/api/models/org/m/tree/{NEW}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (HUB, b"[" * 100_000),
        (HUB, b"null"),
        (HUB, b'{"sha": 3}'),
        (HUB, b'{"sha": "\\u001b[2J"}'),
        (TREE, b'{"not": "a list"}'),
        (TREE, b'[{"type": "file", "path": "../../x", "size": 1, "oid": "1"}]'),
        (TREE, b'[{"type": "file", "path": "config.json", "size": -1, "oid": "1"}]'),
        (TREE, b'[{"type": "file", "path": "config.json", "size": 1e400, "oid": "1"}]'),
    ],
)
def test_hostile_answers_of_a_hub_are_no_answers(
    server: FileServer, tmp_path: Path, path: str, body: bytes
) -> None:
    publish(server, FILES)
    hostile(server, path, body)
    news = news_of(stored(tmp_path, "hf:org/m", FILES, revision=OLD))
    assert news.state == "unasked" and news.reason and news.reason.isprintable()


def test_a_licence_that_steers_a_terminal_is_refused(server: FileServer, tmp_path: Path) -> None:
    publish(server, {**FILES, "config.json": b"{}"}, licence="\x1b]0;owned\x07")
    news = news_of(stored(tmp_path, "hf:org/m", FILES, revision=OLD))
    assert news.state == "unasked" and "licence" in news.reason


def test_a_template_that_is_too_large_is_not_told(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepwell.models.revisions import hub_news

    monkeypatch.setattr(hub_news, "_MOST_TEMPLATE_BYTES", 1000)
    publish(server, {**FILES, "tokenizer_config.json": template_config("x" * 2000)})
    news = news_of(stored(tmp_path, "hf:org/m", FILES, revision=OLD))
    assert (news.state, news.template) == ("new", None) and "template" in news.unsaid


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KNOWN = st.sampled_from(["files", "filename", "url", "hashes", "size", "yanked", "upload-time", "version"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer=_JSON | st.dictionaries(_KNOWN, _JSON | st.lists(st.dictionaries(_KNOWN, _JSON), max_size=3)),
)
def test_any_answer_of_an_index_gives_a_report(
    server: FileServer, tmp_path_factory: pytest.TempPathFactory, answer: object
) -> None:
    from deepwell.errors import DownloadError
    from deepwell.models.revisions.package_news import news_of_npm, news_of_package
    from deepwell.models.store.download import Downloader
    from deepwell.models.store.npm import NpmSource
    from deepwell.models.store.sources import PyPISource

    server.put_json("/simple/p/", answer)
    server.put_json("/p/latest", answer)
    server.put_json("/p/1", answer)
    made = manifest_of("pypi:p==1", {})
    with Downloader(attempts=1) as downloader:
        index = PackageIndex(f"{server.url}/simple")
        for ask in (
            lambda: news_of_package("pypi:p==1", PyPISource("p", "1", "m"), made, index, downloader),
            lambda: news_of_npm("npm:p==1#m", NpmSource("p", "1", "m"), server.url, downloader),
        ):
            with suppress(DownloadError):
                assert ask().state in ("new", "current")


# The report


def test_sources_are_those_of_the_pull_and_the_publishers_own() -> None:
    joined = "pypi:a==1#x + pypi:b==1#y, npm:c==2#package/, pypi:a==1#z"
    entry = CatalogEntry("m", "", "", ("hf:org/m@" + OLD, "pypi:a==1#x"))
    assert watched_sources(manifest_of(joined, {}), entry) == (
        "pypi:a==1#x",
        "pypi:b==1#y",
        "npm:c==2#package/",
        "hf:org/m@" + OLD,
    )
    assert watched_sources(manifest_of("/home/a, b + c/m.gguf", {}), None) == ("/home/a, b + c/m.gguf",)


def test_a_report_is_kept_beside_the_models(tmp_path: Path) -> None:
    assert Report.read(tmp_path) is None
    one = Report("2026-11-01T00:00:00+00:00", (ModelNews("a", (SourceNews("hf:x/a", "current"),)),))
    one.write(tmp_path)
    assert Report.read(tmp_path) == one
    later = Report("2026-11-02T00:00:00+00:00", (ModelNews("b", (SourceNews("hf:x/b", "new"),)),))
    both = later.joined(one)
    assert [model.name for model in both.models] == ["a", "b"] and both.checked == later.checked
    both.write(tmp_path)
    assert ModelStore(tmp_path).names() == []
    (tmp_path / ".updates.json").write_text("[")
    with pytest.raises(InvalidModelFile, match="delete"):
        Report.read(tmp_path)
