"""Grade 2 without podman: what containers are told, what they are not told, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import EngineUnavailable, InvalidRequest
from deepwell.fleet.deploy.declaration import ContainerTerms, Declaration
from deepwell.fleet.deploy.machine import Opened, deployment_folder, running_deployments, told_claim
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.pods.pod import Pod, inside_release
from deepwell.fleet.pods.podman import podman
from deepwell.fleet.pods.prometheus import config_text, targets_text, write_targets
from deepwell.process.claim import read_claim
from deepwell.process.programs import Program
from deepwell.settings import Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
RELEASE = Release("toy@prod#1", "toy", "toy")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called podman that writes down what it is told; every image is there."""
    log = tmp_path / "told"
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{log}\nif [ "$1" = secret ]; then cat >>{log}.secrets; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return log


def declared(**changes: object) -> Declaration:
    values = {"name": "toy", "grade": "containers", "alias": "toy@prod", "model": "toy", "port": 18000}
    return Declaration.model_validate(values | changes)


def pod_of(tmp_path: Path, **changes: object) -> Pod:
    settings = Settings.load(data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    return Pod(declared(**changes), deployment_folder(settings, "toy"), settings)


def test_secrets_reach_podman_by_its_input_and_stand_in_no_argument(fake: Path, tmp_path: Path) -> None:
    pod = pod_of(tmp_path, containers={"prometheus_port": 19000})
    settings = pod.open(18000, [18001, 18002])
    pod.keep_keys(["dw-given", "fleet-key"])
    told = [pod.replica(RELEASE, "blue0", 18001), pod.prometheus()]
    pod.close()
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    password = url.split(":")[2].partition("@")[0]
    read = Path(f"{fake}.secrets").read_text(encoding="utf-8")
    assert url in read and "dw-given fleet-key" in read
    said = fake.read_text(encoding="utf-8")
    for program in told:
        assert program is not None
        said += " ".join((*program.command, *program.environ.values()))
    for secret in (password, "dw-given", "fleet-key"):
        assert secret not in said
    assert "secret rm --ignore deepwell-toy-keys" in said
    assert pod.database_file.stat().st_mode & 0o077 == 0


def test_every_container_is_locked_and_is_removed_after_its_end(fake: Path, tmp_path: Path) -> None:
    pod = pod_of(tmp_path)
    program = pod.replica(RELEASE, "blue0", 18001)
    assert {"--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"} <= set(program.command)
    assert program.after[1:] == ("rm", "--force", "--ignore", "--time=0", "deepwell-toy-blue0")
    assert program.address == ("127.0.0.1", 18001)
    assert "--env=DEEPWELL_RELEASE=toy@prod=toy" in program.command
    front = pod.front(
        Program("front", ("haproxy", "-f", "x"), {}, tmp_path, ("127.0.0.1", 18000)), [tmp_path]
    )
    assert {"--cap-drop=all", "--user=0:0"} <= set(front.command)


def test_the_pod_publishes_the_front_where_it_is_declared_and_all_else_on_the_loopback(
    fake: Path, tmp_path: Path
) -> None:
    pod_of(tmp_path, host="0.0.0.0").open(18000, [18001])
    [made] = [one for one in fake.read_text(encoding="utf-8").splitlines() if one.startswith("pod create")]
    published = [one.removeprefix("--publish=") for one in made.split() if one.startswith("--publish")]
    assert published[0] == "18000:18000"
    assert all(one.startswith("127.0.0.1:") for one in published[1:]) and len(published) == 3


def test_the_database_keeps_its_password_over_deployments(fake: Path, tmp_path: Path) -> None:
    first = pod_of(tmp_path).open(18000, [18001]).database_url
    again = pod_of(tmp_path).open(18000, [18001]).database_url
    assert first == again


def test_files_of_a_release_get_places_that_the_user_of_a_container_may_reach(tmp_path: Path) -> None:
    adapter, policy = tmp_path / "adapter", tmp_path / "policy.yaml"
    adapter.mkdir()
    policy.touch()
    release = Release("r", "tuned", "smollm2", (f"tuned={adapter}",), str(policy), "handbook")
    moved, folders = inside_release(release)
    assert moved.adapters == ("tuned=/given/0/adapter",) and moved.policy == "/given/1/policy.yaml"
    assert (moved.base, moved.knowledge) == ("smollm2", "handbook")
    assert dict(folders) == {adapter: "/given/0/adapter", policy: "/given/1/policy.yaml"}


def test_prometheus_is_told_the_replicas_that_run(tmp_path: Path) -> None:
    replicas = [{"port": 1, "state": "ready"}, {"port": 2, "state": "restarting"}]
    slots = [
        {"slot": "blue", "release": {"name": "toy@prod#1"}, "replicas": replicas},
        {"slot": "green", "release": None, "replicas": []},
    ]
    expected = [{"targets": ["127.0.0.1:1"], "labels": {"slot": "blue", "release": "toy@prod#1"}}]
    assert json.loads(targets_text(slots)) == expected
    write_targets(tmp_path, slots)
    before = (tmp_path / "replicas.json").stat().st_mtime_ns
    write_targets(tmp_path, slots)
    assert (tmp_path / "replicas.json").stat().st_mtime_ns == before
    jobs = {one["job_name"] for one in json.loads(config_text(9000))["scrape_configs"]}
    assert jobs == {"deepwell", "front"}


def test_replicas_read_what_their_deployment_tells_and_none_of_its_secrets(
    fake: Path, tmp_path: Path
) -> None:
    pod = pod_of(tmp_path)
    claim = told_claim(told := pod.told_folder)
    claim.tell({"name": "toy", "alias": "toy@prod", "slots": []})
    command = pod.replica(RELEASE, "blue0", 18001).command
    assert f"--volume={told}:/deployments/toy:ro" in command
    assert "--env=DEEPWELL_DEPLOYMENTS_DIR=/deployments" in command
    seen = Settings.load(state_dir=tmp_path / "none", deployments_dir=told.parent)
    found = running_deployments(seen)["toy"]
    assert (found["alias"], found["slots"]) == ("toy@prod", [])
    assert {one.name for one in told.iterdir()} == {"deployment.lock", "deployment.json"}
    assert {one.stat().st_mode & 0o777 for one in told.iterdir()} == {0o644}, "their user is another one"
    assert (told.stat().st_mode & 0o777, told.parent.stat().st_mode & 0o777) == (0o755, 0o700)
    claim.release()
    assert running_deployments(seen) == {}


def test_a_missing_podman_a_missing_image_and_a_failure_name_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))
    settings = Settings.load(data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    with pytest.raises(InvalidRequest, match="podman is not installed"):
        Opened(declared(), settings, lambda _: None)
    program.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(InvalidRequest, match=r"localhost/deepwell:api is not on this machine"):
        Opened(declared(), settings, lambda _: None)
    with pytest.raises(EngineUnavailable, match="`podman pod create` failed: no such thing"):
        podman("pod", "create")
    assert read_claim(deployment_folder(settings, "toy"), "deployment") is None, "the claim is given back"


def test_images_are_those_of_the_containerfiles_and_are_built_in_a_clone_only(
    tmp_path: Path, fake: Path
) -> None:
    from deepwell.fleet.pods.images import IMAGES

    for image in IMAGES:
        text = (DEPLOY.parent / image.file).read_text(encoding="utf-8")
        assert f" AS {image.target}\n" in text
    assert {one.name for one in IMAGES} == {
        value for name, value in ContainerTerms().model_dump().items() if name != "prometheus_port"
    }
    result = CliRunner().invoke(app, ["deploy", "images", "valkey", "--source", str(tmp_path)])
    assert result.exit_code == 1 and "run it in a clone" in result.output
    result = CliRunner().invoke(app, ["deploy", "images", "nothing"])
    assert result.exit_code == 1 and "there is no image" in result.output
    result = CliRunner().invoke(app, ["deploy", "images", "valkey", "--source", str(DEPLOY.parent)])
    assert result.exit_code == 0 and "is built" in result.output


def test_credentials_of_the_object_store_are_a_file_in_the_container(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = someone\naws_secret_access_key = very-secret\n"
    )
    blobs = {"bucket": "s3://chat/files", "credentials": f"file:{tmp_path}/credentials"}
    pod = pod_of(tmp_path, blobs=blobs)
    pod.open(18000, [18001])
    command = pod.replica(RELEASE, "blue0", 18001).command
    assert "--secret=deepwell-toy-blobs,target=blobs,mode=0444" in command
    assert {
        "--env=DEEPWELL_BLOBS=s3://chat/files",
        "--env=DEEPWELL_BLOBS_CREDENTIALS=/run/secrets/blobs",
    } <= set(command)
    assert "very-secret" not in " ".join(command) + fake.read_text(encoding="utf-8")
    assert "very-secret" in Path(f"{fake}.secrets").read_text(encoding="utf-8")


def test_a_path_that_podman_would_split_is_refused(tmp_path: Path) -> None:
    hostile = tmp_path / "calm:" / "etc:rw"
    hostile.mkdir(parents=True)
    with pytest.raises(InvalidRequest, match="colon"):
        inside_release(Release("toy@prod#1", "calm", "toy", (f"calm={hostile}",)))
