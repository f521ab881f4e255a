"""`planned`: what `deepwell deploy apply` would do with a declaration, without doing any of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from deepwell.errors import ModelNotFound
from deepwell.fleet.cluster.deployment import STEPPED_HERE, check_mesh
from deepwell.fleet.cluster.kubectl import current_context
from deepwell.fleet.deploy.declaration import Declaration, credentials_of, secret_of
from deepwell.fleet.deploy.evaluation import read_questions
from deepwell.fleet.deploy.machine import deployment_folder, front_of, running_deployments
from deepwell.fleet.deploy.manifests import pod_arguments
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.deploy.replicas import LOOPBACK, serve_arguments
from deepwell.fleet.pods.pod import ANY, images_of
from deepwell.fleet.pods.podman import has_image
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings

__all__ = ["lacking", "planned"]


def planned(declaration: Declaration, settings: Settings) -> dict[str, Any]:
    """Returns the plan for programs, with `lines` for people.

    Raises:
        InvalidRequest: a secret or the questions of the evaluation cannot be read, or haproxy or podman is missing.
    """
    blobs = declaration.blobs
    for place in (declaration.database, declaration.valkey):
        if place is not None:
            secret_of(place)
    if blobs is not None and blobs.credentials is not None:
        credentials_of(blobs.credentials)
    terms = declaration.rollout
    questions = 0
    if (evaluation := terms.gates.evaluation) is not None:
        questions = len(read_questions(evaluation.questions))
    front = declaration.mesh.controller if declaration.grade == "mesh" else front_of(declaration)
    contained = declaration.grade == "containers"
    meshed = declaration.grade == "mesh"
    if meshed:
        check_mesh(declaration)
    command = " ".join(_arguments(declaration))
    images, absent = _images(declaration) if contained else ({}, [])
    running = declaration.name in running_deployments(settings)
    steps = terms.for_ledger()
    gates = terms.gates.model_dump(mode="json", exclude_none=True)
    missing = front == "own" and declaration.front == "auto"
    shares = ", ".join(f"{100 * one:g}" for one in steps.shares)
    where = "the gateway of the cluster" if meshed else f"http://{declaration.host}:{declaration.port}"
    lines = [
        f"{declaration.name}: {declaration.alias} at {where}, grade {declaration.grade}",
        f"front: {front}{' (haproxy is not installed)' if missing else ''}",
        f"replicas: {declaration.replicas} of each release, as {command.replace('--port 0', '--port PORT')}",
        f"roll-outs: {steps.kind.replace('_', '-')}, {shares} % of the users, {steps.hold_seconds:g} s each",
        f"gates: {', '.join(f'{name} {_shown(one)}' for name, one in gates.items())}",
    ]
    if meshed:
        place = deployment_folder(settings, declaration.name) / "mesh"
        lines.append(f"applied: kubectl apply -k {place}, with the image {declaration.mesh.image}")
        if declaration.mesh.controller not in STEPPED_HERE:
            lines.append(f"roll-outs go by {declaration.mesh.controller}, and not by `deepwell rollout`")
        lines.append(_cluster())
    if blobs is not None:
        lines.append(f"files: {blobs.bucket} at {blobs.endpoint or 'Amazon S3'}")
    if contained:
        lines.append(f"containers: {', '.join(f'{name} {image}' for name, image in images.items())}")
    missing_model = _missing(declaration, settings)
    lines += _lacks(missing_model, absent)
    if questions:
        lines.append(f"evaluation: {questions} questions before the first step")
    if running:
        lines.append("it runs already: `deepwell deploy down` ends it")
    return {
        "name": declaration.name,
        "grade": declaration.grade,
        "alias": declaration.alias,
        "front": front,
        "replicas": declaration.replicas,
        "images": images,
        "missing_images": absent,
        "missing_model": None if missing_model is None else declaration.model,
        "command": command,
        "rollout": steps.to_json(),
        "gates": gates,
        "questions": questions,
        "running": running,
        "lines": lines,
    }


def _arguments(declaration: Declaration) -> list[str]:
    """Returns the arguments of a replica of the first release, with 0 in place of its port."""
    model = declaration.model
    if declaration.grade == "mesh":
        return pod_arguments(declaration, model)
    release = Release(model, model, model, declaration.adapters, declaration.policy, declaration.knowledge)
    host = ANY if declaration.grade == "containers" else LOOPBACK
    return ["serve", *serve_arguments(declaration, release, 0, host)]


def _cluster() -> str:
    if shutil.which("kubectl") is None:
        return "kubectl is not installed, and `apply` needs it"
    context = current_context()
    if context is None:
        return "cluster: kubectl has no current context; `kubectl config use-context NAME` sets it"
    return f"cluster: {context}, the current context of kubectl"


def lacking(declaration: Declaration, settings: Settings) -> list[str]:
    """Returns, for people, what containers of a declaration need and this machine lacks: the model, images.

    Images are looked for by podman alone.
    """
    absent = _images(declaration)[1] if shutil.which("podman") is not None else []
    return _lacks(_missing(declaration, settings), absent)


def _lacks(model: ModelNotFound | None, images: Sequence[str]) -> list[str]:
    lines = [] if model is None else [f"{model.message}: {model.fix}"]
    if images:
        lines.append(f"images that are missing: {', '.join(images)}; `deepwell deploy images` builds them")
    return lines


def _images(declaration: Declaration) -> tuple[dict[str, str], list[str]]:
    """Returns the images of a pod by part, and those that are not on this machine."""
    images = images_of(declaration)
    return images, [image for image in images.values() if not has_image(image)]


def _missing(declaration: Declaration, settings: Settings) -> ModelNotFound | None:
    """Returns the error of a first model that is not on this machine, which replicas in a mesh do not need here."""
    if declaration.grade == "mesh":
        return None
    try:
        ModelStore(settings.models_dir).resolve(declaration.model)
    except ModelNotFound as error:
        return error
    return None


def _shown(value: Any) -> str:
    return f"{value['least']:g}" if isinstance(value, dict) else f"{value:g}"
