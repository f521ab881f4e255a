"""The Containerfile, what it leaves out, and the compose file: contracts that hold without building anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

import jsonschema
import pytest
import yaml

from deepwell.settings import Settings
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.deploy.podman import needs_podman

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
TARGETS = ("api", "platform", "tune")
# Variables that move everything, and are no settings.
PLACES = {"DEEPWELL_HOME", "DEEPWELL_IMAGE"}


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    lines: tuple[tuple[str, str], ...]  # instruction and its rest

    def all_of(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.lines if name == instruction]


def instructions() -> list[tuple[str, str]]:
    lines = [
        line for line in CONTAINERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for name, rest in instructions():
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found[stage] = Stage(stage, base, ())
        elif found:
            last = list(found)[-1]
            found[last] = Stage(last, found[last].base, (*found[last].lines, (name, rest)))
    return found


def chain(stage: str) -> list[Stage]:
    """A stage and those below it, the lowest first."""
    known, found = stages(), [stages()[stage]]
    while found[0].base in known:
        found.insert(0, known[found[0].base])
    return found


def last_of(stage: str, instruction: str) -> str:
    return [rest for one in chain(stage) for rest in one.all_of(instruction)][-1]


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def test_the_base_is_an_argument_and_the_only_image_from_elsewhere() -> None:
    assert instructions()[0] == ("ARG", "BASE=docker.io/library/debian:trixie-slim")
    known = stages()
    for position, stage in enumerate(known.values()):
        assert stage.base == "${BASE}" or stage.base in list(known)[:position]
        assert not stage.all_of("ADD"), "ADD fetches and unpacks: COPY says what it does"
        for rest in [*stage.all_of("COPY"), *stage.all_of("RUN")]:
            assert set(re.findall(r"from=([\w-]+)", rest)) <= set(known)
    assert set(TARGETS) < set(known)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_number_above_0_and_says_whether_it_is_ready(target: str) -> None:
    assert int(last_of(target, "USER").partition(":")[0]) >= 10_000
    assert json.loads(last_of(target, "ENTRYPOINT"))[0] == "deepwell"
    check = re.search(r"CMD (\[.*\])$", last_of(target, "HEALTHCHECK"))
    assert check and json.loads(check[1])[0] == "python" and "/readyz" in check[1]
    assert "--start-period=" in last_of(target, "HEALTHCHECK")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_nothing_itself(target: str) -> None:
    runs = [rest for one in chain(target) if one.base != "${BASE}" for rest in one.all_of("RUN")]
    assert runs and not [rest for rest in runs if re.search(r"apt-get|pip |g\+\+", rest)]
    copies = [rest for one in chain(target) for rest in one.all_of("COPY")]
    assert copies and all("--from=packages-" in rest for rest in copies), "no source, no context"
    assert any(rest.endswith("/usr/share/deepwell/sbom.json") for rest in stages()[target].all_of("COPY"))


def test_packages_come_by_hash_and_leave_no_lists_behind() -> None:
    runs = [rest for stage in stages().values() for rest in stage.all_of("RUN")]
    for rest in runs:
        for _ in re.findall(r"apt-get install", rest):
            assert (
                "--no-install-recommends" in rest
                and "apt-get clean" in rest
                and "/var/lib/apt/lists/*" in rest
            )
        assert not re.search(r"curl|wget|\bsudo\b|chmod 777", rest)
    assert any("--require-hashes" in rest and "requirements.lock" in rest for rest in runs)
    assert any("cyclonedx-py environment" in rest for rest in stages()["packages-api"].all_of("RUN"))


def test_secrets_are_mounted_and_never_arguments_variables_or_copies() -> None:
    for name, rest in instructions():
        if name in ("ARG", "ENV", "LABEL"):
            assert not re.search(r"(?i)password|token|secret(?!s/)|api_?key|index_url|proxy", rest), rest
    text = CONTAINERFILE.read_text(encoding="utf-8")
    assert "://" not in text.replace("http://127.0.0.1:", ""), "an index is the business of whoever builds"
    assert set(re.findall(r"type=secret,id=(\w+)", text)) == {"apt", "ca", "pip"}


def test_nothing_belongs_to_one_architecture() -> None:
    code = "\n".join(f"{name} {rest}" for name, rest in instructions())
    assert not re.search(r"(?i)x86|amd64|arm64|aarch64|--platform|avx", code)


def test_variables_of_the_image_are_settings() -> None:
    names = re.findall(r"\b(DEEPWELL_[A-Z_]+)=", " ".join(stages()["api"].all_of("ENV")))
    assert names
    for name in set(names) - PLACES:
        assert name.removeprefix("DEEPWELL_").lower() in Settings.model_fields


def test_the_context_is_a_list_of_what_is_needed() -> None:
    text = (ROOT / ".containerignore").read_text(encoding="utf-8")
    assert text == (ROOT / "deploy" / "Containerfile.dockerignore").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert all((ROOT / path).exists() for path in allowed)
    wanted = [
        source
        for stage in stages().values()
        for rest in stage.all_of("COPY")
        if "--from" not in rest
        for source in rest.split()[:-1]
    ]
    wanted += [
        found
        for stage in stages().values()
        for rest in stage.all_of("RUN")
        for found in re.findall(r"--mount=source=([^, ]+)", rest)
    ]
    assert set(wanted) == set(allowed)
    assert any(fnmatch("src/deepwell/_native.so", line) for line in lines[1:]), (
        "a module of the host stays outside"
    )


def test_the_build_imports_what_the_extras_bring() -> None:
    names = run_path(str(ROOT / "deploy" / "prepare.py"))["ON_FIRST_USE"]
    assert all(find_spec(name.partition(".")[0]) for name in names)


def test_every_module_of_an_image_can_be_imported() -> None:
    program = f"import runpy; runpy.run_path({str(ROOT / 'deploy' / 'prepare.py')!r})['load_all']()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The part of the Compose specification that the file uses: everything else in it is a slip.
_WORDS = {"type": "array", "items": {"type": "string"}}
_COMMAND = {"oneOf": [{"type": "string"}, _WORDS]}
_VARIABLES = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h))+$"}
_HEALTH = {
    "type": "object",
    "required": ["test", "interval", "timeout", "retries", "start_period"],
    "additionalProperties": False,
    "properties": {
        "test": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "interval": _DURATION,
        "timeout": _DURATION,
        "start_period": _DURATION,
        "retries": {"type": "integer"},
    },
}
_SERVICE = {
    "type": "object",
    "required": ["image", "healthcheck", "read_only", "cap_drop", "security_opt", "restart"],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "pattern": r":[\w.-]+\}?$"},
        "build": {
            "type": "object",
            "required": ["context", "dockerfile", "target"],
            "additionalProperties": False,
            "properties": {
                "context": {"const": ".."},
                "dockerfile": {"const": "deploy/Containerfile"},
                "target": {"enum": list(TARGETS)},
                "args": _VARIABLES,
            },
        },
        "command": _COMMAND,
        "environment": _VARIABLES,
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:"}},
        "networks": _WORDS,
        "volumes": _WORDS,
        "tmpfs": _WORDS,
        "profiles": _WORDS,
        "user": {"type": "string"},
        "shm_size": {"type": "string"},
        "stop_grace_period": _DURATION,
        "healthcheck": _HEALTH,
        "restart": {"const": "unless-stopped"},
        "read_only": {"const": True},
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "pids_limit": {"type": "integer"},
    },
}
_COMPOSE = {
    "type": "object",
    "required": ["name", "services", "volumes"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string"},
        "services": {"type": "object", "additionalProperties": _SERVICE},
        "networks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"internal": {"type": "boolean"}},
            },
        },
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
}


def test_compose_is_valid_and_every_service_is_locked_down() -> None:
    jsonschema.validate(compose(), _COMPOSE)


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("api", "privileged", True),
        ("api", "ports", ["8000:8000"]),
        ("postgres", "read_only", False),
        ("valkey", "image", "docker.io/valkey/valkey"),
    ],
)
def test_compose_that_opens_up_is_noticed(service: str, key: str, value: Any) -> None:
    opened = compose()
    opened["services"][service][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(opened, _COMPOSE)


def test_compose_starts_the_server_alone_unless_a_profile_is_named() -> None:
    file = compose()
    plain = [name for name, service in file["services"].items() if not service.get("profiles")]
    assert plain == ["api"]
    assert file["networks"]["inside"]["internal"]
    for name in ("postgres", "valkey"):
        assert file["services"][name]["networks"] == ["inside"] and not file["services"][name].get("ports")
    for service in file["services"].values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", volume.rpartition(":")[0])
            assert source in file["volumes"]


def test_compose_has_no_secret_of_its_own_and_names_real_settings() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?i)password: (?!\$\{\w+:-\})", text)
    names = set(re.findall(r"\b(DEEPWELL_[A-Z_]+)", text)) - PLACES - {"DEEPWELL_MODELS"}
    assert names and all(name.removeprefix("DEEPWELL_").lower() in Settings.model_fields for name in names)


def test_without_podman_the_benchmark_says_how_to_bring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PeerError) as refused:
        needs_podman()
    assert "apt-get install" in str(refused.value.fix) and "podman" in str(refused.value.fix)
