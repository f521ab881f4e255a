"""The compose file of a fleet: what it runs, where secrets stand, and what hostile names do to it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.needs import HAPROXY

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.declaration import Declaration
from deepwell.fleet.pods.compose import render_compose

SECRET = "very-secret"


def rendered(folder: Path, **changes: object) -> dict[str, Any]:
    values = {"name": "toy", "grade": "containers", "alias": "toy@prod", "model": "toy", "port": 18000}
    declaration = Declaration.model_validate(values | changes)
    render_compose(declaration, folder / "fleet", folder / "models", answer_s=600)
    return yaml.safe_load((folder / "fleet" / "compose.yaml").read_text(encoding="utf-8"))


def test_every_part_is_locked_has_a_check_and_time_to_end(tmp_path: Path) -> None:
    made = rendered(tmp_path, replicas=2, containers={"prometheus_port": 19000})
    services = made["services"]
    assert set(services) == {"front", "replica0", "replica1", "postgres", "valkey", "prometheus"}
    for name, one in services.items():
        assert one["read_only"] and one["cap_drop"] == ["ALL"] and one["healthcheck"]["test"], name
        assert one["security_opt"] == ["no-new-privileges:true"] and one["stop_grace_period"], name
    assert services["front"]["stop_signal"] == "SIGUSR1"
    assert services["front"]["depends_on"] == ["replica0", "replica1"]
    published = {name: one.get("ports") for name, one in services.items() if one.get("ports")}
    assert published == {"front": ["127.0.0.1:18000:8000"], "prometheus": ["127.0.0.1:19000:19000"]}
    assert made["networks"]["inside"] == {"internal": True}
    assert services["postgres"]["networks"] == services["valkey"]["networks"] == ["inside"]


def test_secrets_are_in_files_that_stay_and_nowhere_else(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\n")
    blobs = {
        "bucket": "s3://chat/files",
        "endpoint": "https://s3.example",
        "credentials": f"file:{credentials}",
    }
    made = rendered(tmp_path, blobs=blobs)
    folder = tmp_path / "fleet"
    assert folder.stat().st_mode & 0o077 == 0, "files are readable inside, so nobody may pass the folder"
    settings = tomllib.loads((folder / "secrets" / "settings").read_text(encoding="utf-8"))
    password = (folder / "secrets" / "postgres").read_text(encoding="utf-8").strip()
    assert settings["database_url"] == f"postgresql://deepwell:{password}@postgres:5432/deepwell"
    assert settings["api_keys"] == [(folder / "secrets" / "key").read_text(encoding="utf-8").strip()]
    told = "".join(
        one.read_text(encoding="utf-8")
        for one in folder.rglob("*")
        if one.is_file() and one.parent.name != "secrets"
    )
    for secret in (password, SECRET, settings["api_keys"][0]):
        assert secret not in told
    assert made["services"]["replica0"]["environment"]["DEEPWELL_BLOBS_CREDENTIALS"] == "/run/secrets/blobs"
    rendered(tmp_path, blobs=blobs, replicas=3)
    assert (folder / "secrets" / "postgres").read_text(encoding="utf-8").strip() == password


def test_a_database_that_is_declared_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "database").write_text("postgresql://a:b@c/d")
    made = rendered(tmp_path, database=f"file:{tmp_path}/database")
    assert "postgres" not in made["services"] and made["services"]["replica0"]["depends_on"] == ["valkey"]
    settings = tomllib.loads((tmp_path / "fleet" / "secrets" / "settings").read_text(encoding="utf-8"))
    assert settings["database_url"] == "postgresql://a:b@c/d"


def test_names_with_variables_reach_a_container_as_they_are(tmp_path: Path) -> None:
    policy = tmp_path / "$HOME" / "own.yaml"
    policy.parent.mkdir()
    policy.touch()
    text = yaml.safe_dump(
        rendered(tmp_path, policy=str(policy), model="${POSTGRES_PASSWORD:-x}", alias="toy@prod")
    )
    unescaped = re.sub(r"\$\$", "", text)
    assert "$" not in unescaped and "$${POSTGRES_PASSWORD:-x}" in text


def test_a_model_splits_neither_a_map_nor_a_mount(tmp_path: Path) -> None:
    rendered(tmp_path, model="toy|none|x")
    [line] = (tmp_path / "fleet" / "front" / "routes.map").read_text(encoding="utf-8").splitlines()
    assert line.count("|") == 9 and "toy_none_x" in line
    declaration = Declaration.model_validate(
        {"name": "toy", "grade": "containers", "alias": "toy@prod", "model": "toy", "port": 18000}
    )
    with pytest.raises(InvalidRequest, match="colon"):
        render_compose(declaration, tmp_path / "fleet", tmp_path / "models:/etc:rw", answer_s=600)


@pytest.mark.needs(HAPROXY)
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    rendered(tmp_path)
    front = tmp_path / "fleet" / "front"
    config = (front / "haproxy.cfg").read_text(encoding="utf-8")
    assert "server replica1 replica1:8000" in config and "resolvers names" in config
    here = config.replace("/etc/haproxy/deepwell", str(front)).replace("/run/deepwell", str(tmp_path))
    (tmp_path / "haproxy.cfg").write_text(here, encoding="utf-8")
    haproxy = str(HAPROXY.find())
    done = subprocess.run(
        [haproxy, "-c", "-C", str(front), "-f", str(tmp_path / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "told"), [({"knowledge": "handbook"}, "knowledge"), ({"port": 0}, "port: 0")]
)
def test_what_a_compose_file_cannot_carry_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        rendered(tmp_path, **changes)
