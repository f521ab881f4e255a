"""`Release`: what a replica serves, which moves as one: model, adapters, policy and knowledge base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.declaration import Declaration
from deepwell.storage.registry.story import Rollout, Story, Version
from deepwell.tuning.train.artefact import artefact_hash

__all__ = ["Release", "candidate_release", "check_artefact_of", "current_release", "plain_name"]

_PLAIN: Final = re.compile(r"[^A-Za-z0-9._:@/#-]")


@dataclass(frozen=True, slots=True)
class Release:
    """One release of a deployment.

    Attributes:
        name: id of the version, or the model's name where the alias means a model that is no version.
        model: the name that the alias means in it.
        base: the model that replicas load; `model` itself, unless that is an adapter.
        adapters: adapters that replicas load, as NAME=PATH.
    """

    name: str
    model: str
    base: str
    adapters: tuple[str, ...] = ()
    policy: str | None = None
    knowledge: str | None = None

    def facts(self) -> dict[str, object]:
        """Returns the release for programs."""
        return {
            "name": self.name,
            "model": self.model,
            "base": self.base,
            "adapters": list(self.adapters),
            "policy": self.policy,
            "knowledge": self.knowledge,
        }


def current_release(declaration: Declaration, story: Story, model: str) -> Release:
    """Returns the release in which the alias means a model now: the version that was promoted last, else its first."""
    alias = declaration.alias
    promoted = [
        one
        for one in story.rollouts.values()
        if one.alias == alias and one.state == "promoted" and one.candidate == model
    ]
    version = story.versions.get(promoted[-1].version) if promoted else None
    if version is None:
        version = next((one for one in story.versions_of(alias) if one.model == model), None)
    return _release(declaration, model, version)


def candidate_release(declaration: Declaration, story: Story, rollout: Rollout) -> Release:
    """Returns the release that a roll-out is about."""
    return _release(declaration, rollout.candidate, story.versions.get(rollout.version))


def plain_name(model: str) -> str:
    """Returns the name of a release that is no version, of characters that no header and no map of a front splits."""
    return _PLAIN.sub("_", model)


def _release(declaration: Declaration, model: str, version: Version | None) -> Release:
    declared = {one.partition("=")[0] for one in declaration.adapters}
    adapters = declaration.adapters
    base = declaration.model if model in declared else model
    if version is not None and version.artefact:
        base, adapters = declaration.model, (*adapters, f"{model}={version.artefact}")
    name = plain_name(model) if version is None else version.id
    return Release(
        name,
        model,
        base,
        adapters,
        _text(version, "policy") or declaration.policy,
        _text(version, "knowledge") or declaration.knowledge,
    )


def check_artefact_of(story: Story, release: Release) -> None:
    """Checks that the adapter of a release is the one that was registered. Reads all its bytes.

    Raises:
        InvalidRequest: it is missing, or was changed.
    """
    version = story.versions.get(release.name)
    if version is None or not version.artefact:
        return
    folder = Path(version.artefact)
    if not folder.is_dir():
        raise InvalidRequest(f"its artefact {folder} is missing", fix="bring it back from a backup")
    if artefact_hash(folder) != version.artefact_sha256:
        raise InvalidRequest(
            f"its artefact {folder} is not the one that was registered as {version.id}",
            fix="bring it back from a backup, or register it anew",
        )


def _text(version: Version | None, name: str) -> str | None:
    value = None if version is None else version.config.get(name)
    return value if isinstance(value, str) and value else None
