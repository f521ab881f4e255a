"""Manifests of the mesh grade: a Kustomize overlay that gives the base in `deploy/kustomize` the values of a declaration.

The overlay is a few patches that a person can read and commit; it names no secret, only the files that hold them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeGuard
from urllib.parse import urlsplit

import yaml

from deepwell.errors import InvalidRequest

__all__ = [
    "CONTROLLERS",
    "Controller",
    "Declared",
    "Rendered",
    "checkout_base",
    "pod_arguments",
    "render_mesh",
]

Controller = Literal["gateway-api", "argo-rollouts", "istio", "kserve"]
"""Part of the cluster that switches releases, named like its overlay."""
CONTROLLERS: Final[tuple[Controller, ...]] = ("gateway-api", "argo-rollouts", "istio", "kserve")

_IMAGE: Final = "localhost/deepwell"
_NAMED: Final = "kustomization.yaml"
_UNSCALED: Final[Mapping[str, Any]] = {
    "target": {"kind": "HorizontalPodAutoscaler", "labelSelector": "deepwell-release=candidate"},
    "patch": "$patch: delete\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata:\n  name: deepwell\n",
}
_POLICY: Final = "/etc/deepwell/policy.yaml"
_BLOBS: Final = "/etc/deepwell-blobs"
Patch = dict[str, Any]


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks, which a person can read."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Blocks.add_representer(str, _Blocks.represent_str)


class DeclaredServe(Protocol):
    """Options of `deepwell serve`, as a declaration has them."""

    def flags(self) -> list[str]: ...


class DeclaredGates(Protocol):
    """Bounds on how much worse a candidate may be."""

    @property
    def error_rate(self) -> float | None: ...
    @property
    def refusal_rate(self) -> float | None: ...
    @property
    def first_token_p95_ms(self) -> float | None: ...
    @property
    def guard_rate(self) -> float | None: ...


class DeclaredBlobs(Protocol):
    """Bucket of the files."""

    @property
    def endpoint(self) -> str | None: ...
    @property
    def credentials(self) -> str | None: ...
    def variables(self, credentials: str | None) -> dict[str, str]: ...


class DeclaredRollout(Protocol):
    """Steps of a roll-out: shares in percent, and the seconds that each is held."""

    @property
    def steps(self) -> Sequence[float]: ...
    @property
    def hold_seconds(self) -> float: ...
    @property
    def gates(self) -> DeclaredGates: ...


class Declared(Protocol):
    """The part of a declaration that manifests need."""

    @property
    def name(self) -> str: ...
    @property
    def alias(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def adapters(self) -> Sequence[str]: ...
    @property
    def replicas(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def serve(self) -> DeclaredServe: ...
    @property
    def policy(self) -> str | None: ...
    @property
    def knowledge(self) -> str | None: ...
    @property
    def database(self) -> str | None: ...
    @property
    def valkey(self) -> str | None: ...
    @property
    def blobs(self) -> DeclaredBlobs | None: ...
    @property
    def rollout(self) -> DeclaredRollout: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """Files that were written, and the commands that bring them to where they run.

    Attributes:
        files: files below the folder.
        commands: commands for the terminal, in order.
    """

    files: tuple[Path, ...]
    commands: tuple[str, ...]


def checkout_base() -> Path:
    """Returns `deploy/kustomize` of the checkout that Deepwell runs from.

    Raises:
        InvalidRequest: Deepwell was installed from a wheel, which has no manifests.
    """
    base = Path(__file__).parents[4] / "deploy" / "kustomize"
    if not (base / "base" / _NAMED).is_file():
        raise InvalidRequest(
            "the manifests that an overlay builds on are in the repository, and this is an installed wheel",
            fix="clone the repository, and name its folder: --base PATH/deploy/kustomize",
        )
    return base


def render_mesh(
    declared: Declared,
    folder: Path,
    *,
    base: Path,
    controller: Controller = "gateway-api",
    image: str = f"{_IMAGE}:api",
    candidate: str | None = None,
    share: float = 0.0,
    scaled: Mapping[str, int] | None = None,
) -> Rendered:
    """Writes an overlay for a declaration.

    Args:
        folder: folder of the overlay, made if need be. Files of other names in it are left alone.
        base: `deploy/kustomize` of a checkout.
        image: image of the server, with its tag or digest.
        candidate: model of the second release; None: none is rolled out, and there are no pods of it.
        share: part of the requests that the candidate gets, from 0 to 1, where the cluster itself has no steps.
        scaled: pods of each release that autoscalers want by now, below which a rendering does not go.

    Raises:
        InvalidRequest: the base is missing, or the share is none.
    """
    if not 0 <= share <= 1:
        raise InvalidRequest(f"a share of {share} is not between 0 and 1", fix="name a share such as 0.05")
    if not (base / "overlays" / controller / _NAMED).is_file():
        raise InvalidRequest(
            f"{base} has no overlay {controller!r}",
            fix="name the folder deploy/kustomize of a checkout by --base",
        )
    if declared.knowledge is not None:
        raise InvalidRequest(
            "`knowledge` is a name in the database of one machine, and manifests do not carry it to a cluster",
            fix="leave it out of deploy.yaml, and name the knowledge base in requests",
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / _NAMED]
    overlay: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(base / "overlays" / controller, folder)],
        "images": [_image(image)],
        "labels": [{"pairs": {"app.kubernetes.io/instance": declared.name}}],
    }
    if _is_file(declared.policy):
        written.append(_copied_policy(Path(declared.policy), folder))
        overlay["configMapGenerator"] = [{"name": "deepwell-policy", "files": ["policy.yaml"]}]
    patches = _releases(declared, controller, candidate, scaled or {})
    patches += _traffic(declared, controller, share)
    if declared.blobs is not None:
        store = {"ports": [{"protocol": "TCP", "port": _store_port(declared.blobs.endpoint)}]}
        patches.append(_patch("NetworkPolicy", [_replace("/spec/egress/-", store, "add")]))
    overlay["patches"] = patches
    text = yaml.dump(overlay, Dumper=_Blocks, sort_keys=False, width=128, allow_unicode=True)
    written[0].write_text(
        f"# Made by `deepwell deploy render`: render it anew instead of editing it.\n{text}", "utf-8"
    )
    return Rendered(tuple(written), _commands(declared, folder))


def _is_file(policy: str | None) -> TypeGuard[str]:
    """Returns whether a policy is a file, and not one of those that Deepwell brings."""
    return policy is not None and Path(policy).suffix in (".yaml", ".yml")


def _image(image: str) -> dict[str, str]:
    name, at, digest = image.partition("@")
    if at:
        return {"name": _IMAGE, "newName": name, "digest": digest}
    place, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # the colon of a port
        place, tag = name, "latest"
    return {"name": _IMAGE, "newName": place, "newTag": tag}


def _copied_policy(policy: Path, folder: Path) -> Path:
    try:
        text = policy.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"the policy {policy} cannot be read: {error}", fix="name a file that is there"
        ) from None
    (folder / "policy.yaml").write_text(text, "utf-8")
    return folder / "policy.yaml"


def _replace(path: str, value: Any, verb: Literal["add", "replace"] = "replace") -> Patch:
    return {"op": verb, "path": path, "value": value}


def _patch(kind: str, steps: Sequence[Patch], *, release: str = "") -> Mapping[str, Any]:
    """Returns a patch of a kind; of both releases where none is named. Their names differ by a suffix that targets ignore."""
    target = {"kind": kind, "labelSelector": f"deepwell-release={release}"} if release else {"kind": kind}
    return {"target": target, "patch": yaml.safe_dump(list(steps), sort_keys=False, width=128)}


def _releases(
    declared: Declared, controller: Controller, candidate: str | None, scaled: Mapping[str, int]
) -> list[Mapping[str, Any]]:
    """Returns the patches of the pods: which model they serve, as which release, and how many there are."""
    if controller == "kserve":
        pod = "/spec/template"
        steps = [
            *_pod_steps(declared, pod, declared.model),
            _replace("/spec/replicas", declared.replicas),
            _replace("/spec/model/name", declared.alias),
        ]
        return [_patch("LLMInferenceService", steps)]
    # Argo Rollouts makes its candidate of the same Deployment: the new model goes there.
    if controller == "argo-rollouts":
        models = {"current": candidate or declared.model}
    else:
        models = {"current": declared.model, "candidate": candidate or declared.model}
    patches: list[Mapping[str, Any]] = []
    for release, model in models.items():
        replicas = declared.replicas if release == "current" or candidate else 0
        pods_now = max(replicas, scaled.get(release, 0)) if replicas else 0
        pods = [*_pod_steps(declared, "/spec/template/spec", model), _replace("/spec/replicas", pods_now)]
        patches += [
            _patch("Deployment", pods, release=release),
            # An autoscaler would start pods of its own; without one there are none.
            _patch("HorizontalPodAutoscaler", _autoscaled(replicas), release=release)
            if replicas
            else _UNSCALED,
        ]
    if controller == "argo-rollouts":
        patches.append(_patch("Rollout", _argo_steps(declared)))
    return patches


def pod_arguments(declared: Declared, model: str) -> list[str]:
    """Returns the arguments of a pod's server. It listens as the setting of the base says."""
    adapters = (part for one in declared.adapters for part in ("--adapter", one))
    return ["serve", model, *declared.serve.flags(), *adapters]


def _pod_steps(declared: Declared, pod: str, model: str) -> list[Patch]:
    container = f"{pod}/containers/0"
    added = {"DEEPWELL_RELEASE": f"{declared.alias}={model}"}
    if declared.policy is not None:
        added["DEEPWELL_GUARD"] = _POLICY if _is_file(declared.policy) else declared.policy
    blobs = declared.blobs
    held = blobs is not None and blobs.credentials is not None
    if blobs is not None:
        added |= blobs.variables(f"{_BLOBS}/credentials" if held else None)
    steps = [_replace(f"{container}/args", list(map(_literal, pod_arguments(declared, model))))]
    steps += [
        _replace(f"{container}/env/-", {"name": name, "value": _literal(value)}, "add")
        for name, value in added.items()
    ]
    if held:
        mount = {"name": "blobs", "mountPath": _BLOBS, "readOnly": True}
        keys = [{"key": "blobs-credentials", "path": "credentials"}]
        volume = {"name": "blobs", "secret": {"secretName": "deepwell", "items": keys}}
        steps += [
            _replace(f"{container}/volumeMounts/-", mount, "add"),
            _replace(f"{pod}/volumes/-", volume, "add"),
        ]
    if _is_file(declared.policy):
        mount = {"name": "policy", "mountPath": str(Path(_POLICY).parent), "readOnly": True}
        volume = {"name": "policy", "configMap": {"name": "deepwell-policy"}}
        steps += [
            _replace(f"{container}/volumeMounts/-", mount, "add"),
            _replace(f"{pod}/volumes/-", volume, "add"),
        ]
    return steps


def _literal(text: str) -> str:
    """Returns a text in which Kubernetes sees no variables: `$(NAME)` would become what NAME is, such as an API key."""
    return text.replace("$", "$$")


def _autoscaled(replicas: int) -> list[Patch]:
    return [_replace("/spec/minReplicas", replicas), _replace("/spec/maxReplicas", max(4 * replicas, 2))]


def _argo_steps(declared: Declared) -> list[Patch]:
    hold = {"pause": {"duration": f"{_plain(declared.rollout.hold_seconds)}s"}}
    steps: list[Any] = [{"setCanaryScale": {"replicas": 1}}, {"setWeight": 0}]
    for number, step in enumerate(declared.rollout.steps):
        # Argo counts in whole percents: a smaller share would be none.
        steps += [{"setWeight": max(1, round(step))}, hold]
        if number == 0:
            steps.append({"setCanaryScale": {"matchTrafficWeight": True}})
    return [_replace("/spec/replicas", declared.replicas), _replace("/spec/strategy/canary/steps", steps)]


def _plain(number: float) -> str:
    """Returns a number without an exponent, which YAML in Go would read as a number again."""
    return format(Decimal(str(number)).normalize(), "f")


def _traffic(declared: Declared, controller: Controller, share: float) -> list[Mapping[str, Any]]:
    """Returns the patches of what switches releases: weights, or the bounds of the analysis."""
    points = round(share * 1000)
    weights = {"deepwell": 1000 - points, "deepwell-candidate": points}
    if controller == "gateway-api":
        path = "/spec/rules/1/backendRefs/{}/weight"
        steps = [_replace(path.format(number), weight) for number, weight in enumerate(weights.values())]
        return [_patch("HTTPRoute", steps)]
    if controller == "istio":
        # Istio reads weights as proportions, like the Gateway API.
        path = "/spec/http/1/route/{}/weight"
        steps = [_replace(path.format(number), weight) for number, weight in enumerate(weights.values())]
        return [_patch("VirtualService", steps)]
    if controller == "argo-rollouts":
        return [_patch("AnalysisTemplate", _bounds(declared.rollout.gates))]
    return []


def _bounds(gates: DeclaredGates) -> list[Patch]:
    """Returns the arguments of the analysis; a gate that is not declared lets everything pass."""
    bounds = {
        "error-rate": gates.error_rate,
        "refusal-rate": gates.refusal_rate,
        "first-token-p95-ms": gates.first_token_p95_ms,
        "guard-rate": gates.guard_rate,
    }
    unbounded: Mapping[str, float] = {
        "error-rate": 1,
        "refusal-rate": 1,
        "first-token-p95-ms": 1_000_000_000,
        "guard-rate": 1_000_000_000,
    }
    return [
        _replace(
            f"/spec/args/{3 + number}",
            {"name": name, "value": _plain(unbounded[name] if bound is None else bound)},
        )
        for number, (name, bound) in enumerate(bounds.items())
    ]


def _store_port(endpoint: str | None) -> int:
    """Returns the port of an object store, which pods may reach."""
    parts = urlsplit(endpoint or "https://")
    return parts.port or (80 if parts.scheme == "http" else 443)


def _commands(declared: Declared, folder: Path) -> tuple[str, ...]:
    """Returns the commands that bring an overlay into a cluster. Secrets go there by file, never through an overlay."""
    files = {
        "api-keys": "FILE",
        "database-url": _file(declared.database),
        "valkey-url": _file(declared.valkey),
    }
    if declared.blobs is not None and declared.blobs.credentials is not None:
        files["blobs-credentials"] = _file(declared.blobs.credentials)
    sources = " ".join(f"--from-file={name}={shlex.quote(file)}" for name, file in files.items())
    return (
        f"kubectl create secret generic deepwell {sources}",
        f"kubectl apply -k {shlex.quote(str(folder))}",
    )


def _file(place: str | None) -> str:
    return (place or "file:FILE").removeprefix("file:")
