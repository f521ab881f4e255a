"""Checks of Kubernetes manifests without a cluster: schemas, references, and fields that must be refused."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError

__all__ = ["KUBERNETES", "built", "identity", "reference_faults", "schema_faults", "spoiled"]

Manifest = dict[str, Any]

KUBERNETES: Final = "1.37"
"""Version of Kubernetes whose schemas judge."""
_WRONG: Final = "noSuchField"


def built(folder: Path) -> list[Manifest]:
    """Returns the manifests that `kubectl kustomize` makes of a folder.

    Raises:
        PeerError: kubectl is missing, or refuses the folder.
    """
    if shutil.which("kubectl") is None:
        raise PeerError(
            "kubectl is not installed", fix="apt-get install --no-install-recommends kubernetes-client"
        )
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"`kubectl kustomize {folder.name}` fails: {done.stderr.strip()}")
    if done.stderr.strip():
        raise PeerError(f"`kubectl kustomize {folder.name}` warns: {done.stderr.strip()}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def identity(manifest: Manifest) -> str:
    """Returns group, version and kind, as the field tables name them."""
    return f"{manifest['apiVersion']}/{manifest['kind']}"


@functools.cache
def _tables() -> Mapping[str, Any]:
    """Returns the field tables by what they describe: each a JSON schema with the definitions of its project."""
    found: dict[str, Any] = {}
    for path in sorted((repository() / "bench" / "data" / "fleet" / "fields").glob("*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        for kind, schema in table["kinds"].items():
            found[kind] = schema | {"$defs": table["$defs"]}
    return found


def schema_faults(manifest: Manifest) -> list[str]:
    """Returns what is wrong with a manifest: by the schema that `kubernetes-validate` has, else by a field table.

    A pod inside of another project's kind is checked as a Pod.
    """
    if (table := _tables().get(identity(manifest))) is not None:
        from jsonschema import Draft202012Validator

        faults = [
            f"{'.'.join(map(str, one.absolute_path))}: {one.message[:200]}"
            for one in Draft202012Validator(table).iter_errors(manifest)
        ]
        return faults + [fault for pod in _inner_pods(manifest) for fault in schema_faults(pod)]
    return _bundled_faults(manifest)


def _bundled_faults(manifest: Manifest) -> list[str]:
    try:
        import kubernetes_validate
    except ImportError:
        raise PeerError("kubernetes-validate is not installed", fix="pip install 'deepwell[dev]'") from None
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{identity(manifest)} has neither a bundled schema nor a field table"]
    return []


def _inner_pods(manifest: Manifest) -> Iterator[Manifest]:
    if manifest["kind"] == "LLMInferenceService" and "template" in manifest.get("spec", {}):
        metadata = {"name": manifest["metadata"]["name"]}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": manifest["spec"]["template"]}


def spoiled(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yields copies of a manifest that each have one wrong field: an unknown one at its deepest place, and one of a wrong type.

    What Kubernetes keeps as free text (data of a ConfigMap, labels, selectors) is left alone.
    """
    places = sorted(_objects(manifest, ()), key=len)
    wrong = copy.deepcopy(manifest)
    _at(wrong, places[-1])[_WRONG] = "x"
    yield f"{'.'.join(map(str, places[-1]))} has an unknown field", wrong
    for place in places[1:]:
        for name, value in _at(manifest, place).items():
            if isinstance(value, list):
                wrong = copy.deepcopy(manifest)
                _at(wrong, place)[name] = "x"
                yield f"{'.'.join(map(str, (*place, name)))} is a text", wrong
                return


_FREE: Final = {
    "data",
    "labels",
    "annotations",
    "matchLabels",
    "requests",
    "limits",
    "metadata",
    "selector",
    "set",
}


def _objects(value: Any, place: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        if not place or place == ("spec",) or len(place) > 1:
            yield place
        for name, inner in value.items():
            # A selector is free where it is a map of labels, and a schema where it has `matchLabels`.
            if name not in _FREE or (name == "selector" and "matchLabels" in inner):
                yield from _objects(inner, (*place, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _objects(inner, (*place, number))


def _at(manifest: Any, place: Sequence[str | int]) -> Any:
    for part in place:
        manifest = manifest[part]
    return manifest


def reference_faults(
    manifests: Sequence[Manifest], *, outside: Sequence[str] = ("Secret/deepwell",)
) -> list[str]:
    """Returns names that no manifest has: what a pod mounts or reads, the pods of a Service, the Services of a route.

    Args:
        outside: KIND/NAME of what is made by hand.
    """
    there = {f"{one['kind']}/{one['metadata']['name']}" for one in manifests} | set(outside)
    named = {name for one in manifests for name in _named(one)}
    faults = [f"{name} is named and is not there" for name in sorted(named - there)]
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if one["kind"] == "Deployment"]
    for one in manifests:
        wanted = one["spec"]["selector"] if one["kind"] == "Service" else None
        if wanted is not None and not any(wanted.items() <= labels.items() for labels in pods):
            faults.append(f"Service/{one['metadata']['name']} selects no pods")
    return faults


def _named(value: Any) -> Iterator[str]:
    """Yields KIND/NAME of what a part of a manifest names."""
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key == "configMapRef":
            yield f"ConfigMap/{inner['name']}"
        elif key == "secretKeyRef":
            yield f"Secret/{inner['name']}"
        elif key == "serviceAccountName":
            yield f"ServiceAccount/{inner}"
        elif key == "persistentVolumeClaim":
            yield f"PersistentVolumeClaim/{inner['claimName']}"
        elif key in ("scaleTargetRef", "workloadRef"):
            yield f"{inner['kind']}/{inner['name']}"
        elif key == "backendRefs":
            yield from (f"Service/{one['name']}" for one in inner)
        elif key == "destination":
            yield f"Service/{inner['host']}"
        elif key in ("stableService", "canaryService"):
            yield f"Service/{inner}"
        elif key == "templateName":
            yield f"AnalysisTemplate/{inner}"
        elif key == "httpRoute":
            yield f"HTTPRoute/{inner}"
        else:
            yield from _named(inner)
