"""A declaration is read whole or not at all, and every error names line, key and fix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.declaration import load_declaration, secret_of
from deepwell.fleet.deploy.planning import planned
from deepwell.fleet.deploy.release import candidate_release, current_release
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.store import NewVersion

SMALL = "name: chat\nalias: smollm2@prod\nmodel: smollm2\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "deploy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_small_declaration_has_the_rest_by_default(tmp_path: Path) -> None:
    made = load_declaration(written(tmp_path, SMALL))
    assert (made.grade, made.replicas, made.port, made.rollout.steps) == (
        "machine",
        2,
        8000,
        (5, 25, 50, 75, 100),
    )
    assert made.rollout.for_ledger().shares == (0.05, 0.25, 0.5, 0.75, 1.0)


def test_a_whole_declaration(tmp_path: Path) -> None:
    (tmp_path / "database").write_text("postgresql://a:b@c/d\n")
    text = (
        SMALL
        + "grade: machine\nreplicas: 3\nport: 0\nadapters: calm=adapters/calm\npolicy: own.yaml\ndatabase: file:database\n"
        + "serve: {context: 4096, batch_size: auto, precision: int8}\n"
        + "rollout:\n  kind: blue_green\n  gates: {guard_rate: 0.1, evaluation: {questions: q.jsonl, least: 0.9}}\n"
    )
    made = load_declaration(written(tmp_path, text))
    assert made.adapters == (f"calm={tmp_path}/adapters/calm",), "paths are meant from the file"
    assert made.policy == str(tmp_path / "own.yaml") and made.database is not None
    assert secret_of(made.database) == "postgresql://a:b@c/d"
    assert made.serve.flags() == ["--context", "4096", "--precision", "int8", "--batch-size", "auto"]
    assert made.rollout.for_ledger().shares == (1.0,)
    evaluation = made.rollout.gates.evaluation
    assert evaluation is not None and evaluation.questions == tmp_path / "q.jsonl"
    evaluation.questions.write_text('{"question": "2 + 2?", "expected": "4"}\n')
    found = planned(made, Settings.load(data_dir=tmp_path / "data", state_dir=tmp_path / "state"))
    assert found["questions"] == 1 and "--adapter" in found["command"] and "postgresql" not in str(found)


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        (SMALL + "blobs: s3://bucket\n", "line 4: blobs", "correct"),
        (SMALL + "blobs: {bucket: bucket}\n", "line 4: blobs.bucket: write it as s3://", "correct"),
        (SMALL + "blobs: {bukket: x}\n", "no key blobs.bukket", "did you mean blobs.bucket?"),
        (
            SMALL + "blobs:\n  bucket: s3://bucket\n  endpoint: https://a:b@c\n",
            "line 6: blobs.endpoint: write it as https://host:port, without a user",
            "correct",
        ),
        (
            SMALL + "blobs: {bucket: s3://bucket, credentials: AKIA}\n",
            "blobs.credentials: name a file",
            "correct",
        ),
        (SMALL + "replica: 2\n", "line 4: a declaration has no key replica", "did you mean replicas?"),
        (SMALL + "serve:\n  contxt: 5\n", "line 5: a declaration has no key serve.contxt", "serve.context"),
        (SMALL + "zzzz: 2\n", "line 4: a declaration has no key zzzz", "the keys here are name"),
        (SMALL + "replicas: many\n", "line 4: replicas", "correct the value of replicas in line 4"),
        (SMALL + "replicas: 0\n", "line 4: replicas", "correct"),
        (SMALL + "grade: big\n", "line 4: grade: Input should be 'machine', 'containers' or 'mesh'", "grade"),
        (
            SMALL + "rollout:\n  steps: [50, 25, 100]\n",
            "line 5: rollout.steps: steps are percentages",
            "rollout",
        ),
        (SMALL + "rollout:\n  steps:\n  - 5\n  - x\n", "line 7: rollout.steps.1", "rollout.steps.1"),
        (
            SMALL + "rollout: {gates: {eror_rate: 1}}\n",
            "no key rollout.gates.eror_rate",
            "rollout.gates.error_rate",
        ),
        ("name: chat\nmodel: smollm2\n", "the key alias is missing", "add it"),
        (SMALL + "name: other\n", "line 4: the key name stands there twice", "keep one"),
        (SMALL.replace("chat", "Chat!"), "line 1: name: use at most 40 small letters", "name"),
        (SMALL.replace("smollm2@prod", "smollm2"), "would mean itself", "correct"),
        (
            SMALL + "database: postgresql://a:b@c/d\n",
            "line 4: database: name a file that holds the URL",
            "database",
        ),
        (SMALL + "adapters: calm\n", "names no adapter", "adapters"),
        ("a: [", "is not YAML", "correct line"),
        ("a: &x 1\n", "it has anchors", "name a YAML file"),
        ("- 1\n", "the whole", "correct the value"),
        ("", "the whole", "correct the value"),
        (b"\xff\xfe", "cannot be read", "UTF-8"),
        (SMALL + "? [1, 2]\n: 3\n", "a key is no plain name", "correct line 4"),
        (SMALL + "? {a: b}\n: 3\n", "a key is no plain name", "correct line 4"),
        (SMALL + f"port: {'9' * 5000}\n", "digits", "correct line"),
        (SMALL + 'host: "127.0.0.1\\n    stats socket /tmp/x"\n', "line 4: host: name an address", "host"),
        (SMALL + "containers: {image: --privileged}\n", "this names no image", "containers.image"),
        (SMALL.replace("model: smollm2", "model: --help"), "begins with no hyphen", "model"),
        (SMALL + 'policy: "a\\u001b[2J"\n', "a name is printable", "policy"),
        (SMALL + 'adapters: ["calm\\n=/x"]\n', "is not printable", "adapters"),
        (SMALL + "rollout: {gates: {first_token_p95_ms: .inf}}\n", "less than or equal", "first_token"),
        ("[" * 5000, "is not YAML", "correct line"),
        ("x" * 1_100_000, "more than 1 MB", "at most 1 MB"),
    ],
)
def test_errors_name_line_key_and_fix(tmp_path: Path, text: str | bytes, said: str, fix: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        load_declaration(written(tmp_path, text))
    assert said in raised.value.message and fix in raised.value.fix, raised.value


def test_a_secret_that_stands_in_the_declaration_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as raised:
        load_declaration(written(tmp_path, SMALL + "database: postgresql://a:hunter2@c/d\n"))
    assert "hunter2" not in str(raised.value)


def test_a_missing_file_and_an_empty_secret_say_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no declaration"):
        load_declaration(tmp_path / "none.yaml")
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("密" * 2000)
    found = {"empty": "it is empty", "none": "No such file", "pipe": "no ordinary file", "long": "too long"}
    for name, said in {**found, "/dev/zero": "no ordinary file"}.items():
        with pytest.raises(InvalidRequest, match=said):
            secret_of(f"file:{tmp_path / name}")


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda one: one.decode("latin-1")))
def test_any_text_is_a_declaration_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    fix = "none is needed"
    try:
        load_declaration(written(folder, text.encode("utf-8", "surrogatepass")))
    except InvalidRequest as error:
        fix = error.fix
    assert fix


async def test_a_release_moves_model_policy_and_knowledge_together(tmp_path: Path) -> None:
    declaration = load_declaration(written(tmp_path, SMALL + "policy: standard\n"))
    database = Database.temporary()
    try:
        rollouts = Rollouts(database)
        await AliasStore(database).set("smollm2@prod", "smollm2", "cli")
        config = {"policy": "strict", "knowledge": "handbook-2"}
        artefact = NewVersion("calm", artefact="/adapters/calm", artefact_sha256="0" * 64, config=config)
        await rollouts.register("smollm2@prod", artefact, "cli")
        rollout = await rollouts.start("smollm2@prod#1", "cli", ungated="a test")
        story = await rollouts.registry.story("smollm2@prod")
        now, new = (
            current_release(declaration, story, "smollm2"),
            candidate_release(declaration, story, rollout),
        )
        assert (now.name, now.base, now.adapters, now.policy, now.knowledge) == (
            "smollm2",
            "smollm2",
            (),
            "standard",
            None,
        )
        assert (new.name, new.base, new.adapters) == ("smollm2@prod#1", "smollm2", ("calm=/adapters/calm",))
        assert (new.policy, new.knowledge) == ("strict", "handbook-2")
        await rollouts.promote("smollm2@prod", "cli")
        story = await rollouts.registry.story("smollm2@prod")
        assert current_release(declaration, story, "calm") == new, "its replicas go on after the promotion"
    finally:
        database.close()
