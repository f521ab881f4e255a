"""Overlays of a declaration's values: what they set, what they refuse, and that no secret is in them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.manifests import CONTROLLERS, Controller, checkout_base, render_mesh
from deepwell_bench.suites.fleet.manifests import ExampleDeclaration


def rendered(folder: Path, declared: ExampleDeclaration | None = None, **options: Any) -> dict[str, Any]:
    render_mesh(declared or ExampleDeclaration(), folder, base=checkout_base(), **options)
    return yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))


def steps(overlay: dict[str, Any], kind: str, release: str = "") -> dict[str, Any]:
    """The values that the patches of a kind set, by their place."""
    found: dict[str, Any] = {}
    for one in overlay["patches"]:
        selector = one["target"].get("labelSelector", "")
        if (
            "$patch" not in one["patch"]
            and one["target"]["kind"] == kind
            and selector == (f"deepwell-release={release}" if release else "")
        ):
            found |= {step["path"]: step["value"] for step in yaml.safe_load(one["patch"])}
    return found


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_an_overlay_builds_on_the_one_of_its_controller(tmp_path: Path, controller: Controller) -> None:
    overlay = rendered(tmp_path / "a" / "b", controller=controller)
    (named,) = overlay["resources"]
    assert (tmp_path / "a" / "b" / named).resolve() == checkout_base() / "overlays" / controller


def test_each_release_serves_its_own_model_under_the_alias(tmp_path: Path) -> None:
    overlay = rendered(tmp_path, candidate="v2", share=0.05)
    for release, model in (("current", "smollm2"), ("candidate", "v2")):
        pods = steps(overlay, "Deployment", release)
        assert pods["/spec/template/spec/containers/0/args"][:2] == ["serve", model]
        assert pods["/spec/replicas"] == 3
        assert steps(overlay, "HorizontalPodAutoscaler", release)["/spec/minReplicas"] == 3
        text = next(
            one["patch"]
            for one in overlay["patches"]
            if one["target"] == {"kind": "Deployment", "labelSelector": f"deepwell-release={release}"}
        )
        assert {"name": "DEEPWELL_RELEASE", "value": f"smollm2@prod={model}"} in [
            step["value"] for step in yaml.safe_load(text)
        ]
    weights = steps(overlay, "HTTPRoute")
    assert weights == {"/spec/rules/1/backendRefs/0/weight": 950, "/spec/rules/1/backendRefs/1/weight": 50}


def test_without_a_candidate_there_are_no_pods_of_it(tmp_path: Path) -> None:
    overlay = rendered(tmp_path)
    assert steps(overlay, "Deployment", "candidate")["/spec/replicas"] == 0
    deleted = [yaml.safe_load(one["patch"]) for one in overlay["patches"] if "$patch" in one["patch"]]
    assert [one["kind"] for one in deleted] == ["HorizontalPodAutoscaler"]


def test_argo_gets_the_steps_and_gates_of_the_declaration(tmp_path: Path) -> None:
    overlay = rendered(tmp_path, controller="argo-rollouts", candidate="v2")
    shares = [
        one["setWeight"]
        for one in steps(overlay, "Rollout")["/spec/strategy/canary/steps"]
        if "setWeight" in one
    ]
    assert shares == [0, 1, 10, 100]
    assert "duration: 45s" in (tmp_path / "kustomization.yaml").read_text("utf-8")
    bounds = {one["name"]: one["value"] for one in steps(overlay, "AnalysisTemplate").values()}
    # Texts, whatever their size: YAML in Go would read 1e+09 as a number, and the field takes none.
    assert bounds == {
        "error-rate": "0.02",
        "refusal-rate": "0.1",
        "first-token-p95-ms": "400",
        "guard-rate": "1000000000",
    }
    assert steps(overlay, "Deployment", "current")["/spec/template/spec/containers/0/args"][1] == "v2"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (
            "registry.example:5000/team/deepwell",
            {"newName": "registry.example:5000/team/deepwell", "newTag": "latest"},
        ),
        (
            "registry.example:5000/deepwell:1.2",
            {"newName": "registry.example:5000/deepwell", "newTag": "1.2"},
        ),
        ("deepwell@sha256:abc", {"newName": "deepwell", "digest": "sha256:abc"}),
    ],
)
def test_images_with_ports_tags_and_digests(tmp_path: Path, image: str, expected: dict[str, str]) -> None:
    assert rendered(tmp_path, image=image)["images"] == [{"name": "localhost/deepwell", **expected}]


def test_a_policy_of_a_file_goes_into_the_cluster_and_a_named_one_is_only_named(tmp_path: Path) -> None:
    file = tmp_path / "guard.yaml"
    file.write_text("rules: []\n", "utf-8")
    overlay = rendered(tmp_path / "file", replace(ExampleDeclaration(), policy=str(file)))
    assert (tmp_path / "file" / "policy.yaml").read_text("utf-8") == "rules: []\n"
    assert overlay["configMapGenerator"] == [{"name": "deepwell-policy", "files": ["policy.yaml"]}]
    assert "configMapGenerator" not in rendered(tmp_path / "named")


def test_secrets_go_by_file_and_never_through_an_overlay(tmp_path: Path) -> None:
    secret = tmp_path / "database"
    secret.write_text("postgresql://deepwell:hunter2@db/deepwell", "utf-8")
    made = render_mesh(
        replace(ExampleDeclaration(), database=f"file:{secret}"), tmp_path / "overlay", base=checkout_base()
    )
    assert f"--from-file=database-url={secret}" in made.commands[0]
    assert not any("hunter2" in one.read_text("utf-8") for one in made.files)


@pytest.mark.parametrize(
    ("declared", "options", "said"),
    [
        ({"knowledge": "handbook"}, {}, "do not carry"),
        ({"policy": "missing.yaml"}, {}, "cannot be read"),
        ({}, {"share": 1.5}, "not between 0 and 1"),
        ({}, {"base": Path("nowhere")}, "has no overlay"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_fix(
    tmp_path: Path, declared: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        render_mesh(
            replace(ExampleDeclaration(), **declared),
            tmp_path / "overlay",
            **{"base": checkout_base(), **options},
        )
    assert caught.value.fix


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_credentials_of_the_object_store_come_from_the_secret(tmp_path: Path, controller: Controller) -> None:
    made = render_mesh(ExampleDeclaration(), tmp_path, base=checkout_base(), controller=controller)
    text = (tmp_path / "kustomization.yaml").read_text("utf-8")
    for said in ("DEEPWELL_BLOBS_CREDENTIALS", "/etc/deepwell-blobs/credentials", "secretName: deepwell"):
        assert said in text
    assert steps(yaml.safe_load(text), "NetworkPolicy")["/spec/egress/-"]["ports"][0]["port"] == 443
    assert "--from-file=blobs-credentials=/run/secrets/blobs" in made.commands[0]


def test_values_are_neither_variables_of_a_pod_nor_words_of_a_shell(tmp_path: Path) -> None:
    """Kubernetes would put the API keys in place of `$(DEEPWELL_API_KEYS)`, in a log, a header or an error."""
    hostile = "file:/x;touch $(id)'"
    declared = replace(ExampleDeclaration(), model="$(DEEPWELL_API_KEYS)", database=hostile)
    made = render_mesh(declared, tmp_path / "a b;c", base=checkout_base())
    overlay = yaml.safe_load((tmp_path / "a b;c" / "kustomization.yaml").read_text("utf-8"))
    found = steps(overlay, "Deployment", "current")
    assert found["/spec/template/spec/containers/0/args"][1] == "$$(DEEPWELL_API_KEYS)"
    patches = "".join(one["patch"] for one in overlay["patches"])
    assert "=$$(DEEPWELL_API_KEYS)" in patches and "$(" not in patches.replace("$$", "")
    assert f"--from-file=database-url={hostile.removeprefix('file:')}" in shlex.split(made.commands[0])
    assert shlex.split(made.commands[1]) == ["kubectl", "apply", "-k", str(tmp_path / "a b;c")]
