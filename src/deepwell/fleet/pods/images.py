"""The images of grade 2: what each is built of, and how it is built with podman."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import EngineUnavailable, InvalidRequest
from deepwell.fleet.deploy.declaration import ContainerTerms
from deepwell.fleet.pods.podman import environ_of_podman, find_podman, has_image

__all__ = ["IMAGES", "LOCAL_BASE", "Image", "build_image"]

LOCAL_BASE: Final = "localhost/debian:trixie"
"""A base that was made of Debian's packages, which is taken if it is there."""

_TERMS: Final = ContainerTerms()
_SAID: Final = 800


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is built.

    Attributes:
        file: its Containerfile, from the folder of the repository; `context`: what is copied from.
    """

    name: str
    target: str
    file: str = "deploy/images/Containerfile"
    context: str = "deploy"


IMAGES: Final = (
    Image(_TERMS.haproxy, "haproxy"),
    Image(_TERMS.postgres, "postgres"),
    Image(_TERMS.valkey, "valkey"),
    Image(_TERMS.prometheus, "prometheus"),
    Image(_TERMS.image, "api", "deploy/Containerfile", "."),
)
"""All images of the defaults of a declaration; the server's is the last, because it takes longest."""


def build_image(
    image: Image,
    source: Path,
    *,
    base: str | None = None,
    build_secrets: Sequence[str] = (),
    on_line: Callable[[str], None] = lambda _: None,
) -> None:
    """Builds an image. What is there already and has not changed takes seconds.

    Args:
        source: folder of the repository.
        base: image to build on; None: a local Debian if there is one, else that of the Containerfile.
        build_secrets: as `podman build --secret` takes them.

    Raises:
        InvalidRequest: podman or the Containerfile is missing.
        EngineUnavailable: it cannot be built.
    """
    file = source / image.file
    if not file.is_file():
        raise InvalidRequest.of("deploy_no_containerfile", file=file)
    if base is None and has_image(LOCAL_BASE):
        base = LOCAL_BASE
    options = ["--isolation=chroot", "--format=docker", f"--target={image.target}", f"--tag={image.name}"]
    options += _limits() + ([f"--build-arg=BASE={base}"] if base else [])
    options += [f"--secret={one}" for one in build_secrets]
    command = [find_podman(), "build", *options, f"--file={file}", str(source / image.context)]
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ_of_podman(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            on_line(said[-1])
    if process.returncode:
        # What failed stands before what podman says of it, which may be a trace of its own
        wrong = [line for line in said if line.lower().startswith("error")]
        reason = os.linesep.join(wrong)[:_SAID] or os.linesep.join(said)[-_SAID:]
        raise EngineUnavailable.of("deploy_podman", what=f"build {image.name}", reason=reason)


def _limits() -> list[str]:
    """Returns the limits of this process as options: podman's own defaults may be above them, and then no step starts."""
    named = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(which)[1] for name, which in named.items()}
    return [f"--ulimit={name}={most}:{most}" for name, most in hard.items() if most != resource.RLIM_INFINITY]
