"""`Pod`: the containers of a deployment of grade 2, which share one network.

Inside the pod the parts talk over the loopback, by the same ports as outside. Replicas, the front and Prometheus are programs
that the supervisor keeps: each is `podman run` in the foreground, which passes signals on. PostgreSQL and Valkey are started
before anything else and outlive a supervisor that is killed; podman starts them again when they end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from deepwell.errors import EngineUnavailable, InvalidRequest
from deepwell.fleet.deploy.declaration import Declaration, credentials_of, secret_of
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.deploy.replicas import LOOPBACK, free_ports, serve_arguments
from deepwell.fleet.front.front import write_whole
from deepwell.fleet.pods.podman import container_states, environ_of_podman, find_podman, has_image, podman
from deepwell.fleet.pods.prometheus import CONFIG_FOLDER, DATA_FOLDER, config_text
from deepwell.process.programs import Program
from deepwell.settings import Settings

__all__ = ["ANY", "Contained", "Pod", "images_of", "inside_release", "pod_name"]

ANY: Final = "0.0.0.0"  # noqa: S104
"""Address inside the pod. What is reached from outside is a matter of the ports that the pod publishes."""

_LOCKED: Final = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--pids-limit=512")
_START_S: Final = 180.0
_MODELS: Final = "/models"
_GIVEN: Final = "/given"
_BLOBS: Final = "blobs"
_DEPLOYMENTS: Final = "/deployments"


@dataclass(frozen=True, slots=True)
class Contained:
    """The parts of a container.

    Attributes:
        folders: paths of this machine, each with its path inside, where nothing writes to them.
        writable: paths of this machine that it may write to, under the same names.
        volumes: volumes of podman by their place inside.
        variables: its environment; `secrets`: names of podman's secrets by variable.
    """

    image: str
    arguments: tuple[str, ...]
    folders: tuple[tuple[Path, str], ...] = ()
    writable: tuple[Path, ...] = ()
    volumes: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


def pod_name(name: str) -> str:
    """Returns the name of the pod of a deployment."""
    return f"deepwell-{name}"


def images_of(declaration: Declaration) -> dict[str, str]:
    """Returns the images that a deployment needs, by the part that each is for."""
    terms = declaration.containers
    found = {"replicas": terms.image, "front": terms.haproxy}
    found |= {"postgres": terms.postgres} if declaration.database is None else {}
    found |= {"valkey": terms.valkey} if declaration.valkey is None else {}
    return found | ({"prometheus": terms.prometheus} if terms.prometheus_port is not None else {})


class Pod:
    """The pod of one deployment.

    Args:
        folder: the deployment's folder on this machine.

    Raises:
        InvalidRequest: podman or an image is missing.
    """

    def __init__(self, declaration: Declaration, folder: Path, settings: Settings) -> None:
        self.name = pod_name(declaration.name)
        self._declaration, self._settings = declaration, settings
        self._folder = folder
        self._podman = find_podman()
        self._metrics_port = 0
        self._secrets: list[str] = []
        for image in images_of(declaration).values():
            if not has_image(image):
                raise InvalidRequest.of("deploy_no_image", image=image)

    @property
    def told_folder(self) -> Path:
        """The folder of a second claim, which replicas read: the first one lies beside secrets.

        It is apart from the rest, so that they see nothing else, and readable by their user; its parent is this user's alone.
        """
        return self._folder / "told" / self._declaration.name

    @property
    def database_file(self) -> Path:
        """The file with the URL of the database of the pod, readable by this user alone."""
        return self._folder / "secrets" / "database"

    def clear(self) -> None:
        """Removes what a supervisor that was killed left behind. Volumes stay."""
        remove = ("pod", "rm", "--force", "--ignore", "--time=10", self.name)
        try:
            podman(*remove)
        except EngineUnavailable:
            podman(*remove)  # somebody else was removing it, and has

    def open(self, port: int, ports: Sequence[int]) -> Settings:
        """Makes the pod, starts the state, and returns the settings with which this process reaches it.

        Args:
            port: port of the front; `ports`: of the replicas, which nobody but this machine reaches.

        Raises:
            EngineUnavailable: podman fails, or the database does not come up.
            InvalidRequest: the folder of the models cannot be mounted.
        """
        check_mounted(self._settings.models_dir)
        declaration = self._declaration
        published = [f"--publish={_host(declaration.host)}{port}:{port}"]
        published += [f"--publish={LOOPBACK}:{one}:{one}" for one in ports]
        taken = [port, *ports]
        database, valkey, self._metrics_port = self._state_ports(taken)
        if declaration.database is None:
            published.append(f"--publish={LOOPBACK}:{database}:{database}")
        if (shown := declaration.containers.prometheus_port) is not None:
            published.append(f"--publish={LOOPBACK}:{shown}:{shown}")
        podman("pod", "create", f"--name={self.name}", "--shm-size=256m", *published)
        settings = self._open_database(database)
        self._keep("database", settings.database_url.get_secret_value() if settings.database_url else "")
        self._keep("valkey", self._open_valkey(valkey))
        if declaration.blobs is not None and declaration.blobs.credentials is not None:
            self._keep(_BLOBS, credentials_of(declaration.blobs.credentials))
        return settings

    def close(self) -> None:
        """Ends and removes all containers and secrets of the pod. Volumes stay."""
        with contextlib.suppress(EngineUnavailable):
            self.clear()
        for one in self._secrets:
            with contextlib.suppress(EngineUnavailable):
                podman("secret", "rm", "--ignore", one)

    def states(self) -> dict[str, str]:
        """Returns the states of all its containers by their names without the pod's."""
        with contextlib.suppress(EngineUnavailable):
            found = container_states(self.name)
            return {name.removeprefix(f"{self.name}-"): state for name, state in sorted(found.items())}
        return {}

    def contained(self, program: Program, inside: Contained) -> Program:
        """Returns a program that runs as a container of the pod, under the name and with the address of another."""
        command = (
            *(self._podman, "run", "--rm", "--replace", "--log-driver=none"),
            *self._options(program.name, inside),
            inside.image,
            *inside.arguments,
        )
        remove = (self._podman, "rm", "--force", "--ignore", "--time=0", f"{self.name}-{program.name}")
        return replace(program, command=command, environ=environ_of_podman(), after=remove)

    def front(self, program: Program, folders: Sequence[Path]) -> Program:
        """Returns haproxy in the pod. Its configuration, its maps and its socket are in folders of this machine."""
        image = self._declaration.containers.haproxy
        config, *others = folders
        # As the user who owns these folders; without capabilities that is no more than any other user
        inside = Contained(
            image,
            program.command[1:],
            folders=((config, str(config)),),
            writable=tuple(others),
            options=("--user=0:0",),
        )
        host = self._declaration.host
        address = (LOOPBACK if host in (ANY, "::") else host, program.address[1])
        return replace(self.contained(program, inside), address=address)

    @property
    def metrics_port(self) -> int:
        """Port of the figures of the front inside the pod; 0: there is no Prometheus."""
        return self._metrics_port if self._declaration.containers.prometheus_port is not None else 0

    def keep_keys(self, keys: Sequence[str]) -> None:
        """Keeps API keys that replicas accept besides those of the database; the last is for Prometheus as well."""
        self._keep("keys", " ".join(keys))
        self._keep("scrape", keys[-1])

    def replica(self, release: Release, name: str, port: int) -> Program:
        """Returns the program of a replica: `deepwell serve` with one release."""
        declaration = self._declaration
        moved, folders = inside_release(release)
        inside = Contained(
            declaration.containers.image,
            ("serve", *serve_arguments(declaration, moved, port, ANY)),
            folders=(*folders, (self.told_folder, f"{_DEPLOYMENTS}/{declaration.name}")),
            volumes=(f"{self._settings.models_dir.absolute()}:{_MODELS}:ro", f"{self.name}-data:/data"),
            variables=self.variables(release, port),
            secrets=self.secrets(),
            options=self._blob_options(),
        )
        return self.contained(Program(name, (), {}, self._folder, (LOOPBACK, port)), inside)

    def variables(self, release: Release, port: int) -> tuple[tuple[str, str], ...]:
        """Returns the environment of a replica."""
        blobs = self._declaration.blobs
        place = None if blobs is None or blobs.credentials is None else f"/run/secrets/{_BLOBS}"
        return (
            ("DEEPWELL_MODELS_DIR", _MODELS),
            ("DEEPWELL_DEPLOYMENTS_DIR", _DEPLOYMENTS),
            ("DEEPWELL_PORT", str(port)),  # for the health check of the image
            ("DEEPWELL_RELEASE", f"{self._declaration.alias}={release.model}"),
            *(() if blobs is None else blobs.variables(place).items()),
        )

    def _blob_options(self) -> tuple[str, ...]:
        return self._secret_file(_BLOBS, _BLOBS) if f"{self.name}-{_BLOBS}" in self._secrets else ()

    def secrets(self) -> tuple[tuple[str, str], ...]:
        """Returns podman's secrets of a replica by variable."""
        named = {"database": "DATABASE_URL", "valkey": "VALKEY_URL", "keys": "API_KEYS"}
        return tuple(
            (full, f"DEEPWELL_{variable}")
            for short, variable in named.items()
            if (full := f"{self.name}-{short}") in self._secrets
        )

    def prometheus(self) -> Program | None:
        """Returns Prometheus, which scrapes the front and all replicas that run; None: the declaration has none."""
        port = self._declaration.containers.prometheus_port
        if port is None:
            return None
        folder = self._folder / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        (folder / "prometheus.yml").write_text(config_text(self._metrics_port), encoding="utf-8")
        inside = Contained(
            self._declaration.containers.prometheus,
            (
                f"--config.file={CONFIG_FOLDER}/prometheus.yml",
                f"--storage.tsdb.path={DATA_FOLDER}",
                f"--web.listen-address={ANY}:{port}",
                "--log.level=warn",
            ),
            folders=((folder, CONFIG_FOLDER),),
            volumes=(f"{self.name}-prometheus:{DATA_FOLDER.parent}",),
            options=self._secret_file("scrape", "scrape"),
        )
        return self.contained(Program("prometheus", (), {}, self._folder, (LOOPBACK, port)), inside)

    def _state_ports(self, taken: Sequence[int]) -> tuple[int, int, int]:
        """Returns ports of PostgreSQL, Valkey and the front's figures. PostgreSQL's stays, so that its URL does."""
        ports = free_ports(3, taken)
        if self.database_file.exists():
            before = int(secret_of(f"file:{self.database_file}").rpartition(":")[2].partition("/")[0])
            free = before not in taken and _is_free(before)
            ports[0] = before if free else ports[0]
        return ports[0], ports[1], ports[2]

    def _open_database(self, port: int) -> Settings:
        declaration = self._declaration
        if declaration.database is not None:
            return self._settings.model_copy(
                update={"database_url": SecretStr(secret_of(declaration.database))}
            )
        password = self._password("postgres")
        url = f"postgresql://deepwell:{password}@{LOOPBACK}:{port}/deepwell"
        write_whole(self.database_file, url)
        inside = Contained(
            declaration.containers.postgres,
            (str(port),),
            volumes=(f"{self.name}-postgres:/var/lib/postgresql/data",),
            options=self._secret_file("postgres-password", "postgres"),
        )
        self._start("postgres", inside)
        ready = ("pg_isready", "--quiet", f"--host={LOOPBACK}", f"--port={port}")
        until = time.monotonic() + _START_S
        while True:
            try:
                podman("exec", f"{self.name}-postgres", *ready)
            except EngineUnavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return self._settings.model_copy(update={"database_url": SecretStr(url)})

    def _open_valkey(self, port: int) -> str:
        declaration = self._declaration
        if declaration.valkey is not None:
            return secret_of(declaration.valkey)
        password = self._password("valkey")
        options = self._secret_file("valkey-password", "valkey")
        self._start("valkey", Contained(declaration.containers.valkey, (str(port),), options=options))
        return f"valkey://:{password}@{LOOPBACK}:{port}/0"

    def _password(self, name: str) -> str:
        """Returns a password that is made once, and keeps it for podman as well."""
        file = self._folder / "secrets" / name
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not file.exists():
            write_whole(file, secrets.token_hex(24))
        password = secret_of(f"file:{file}")
        self._keep(f"{name}-password", password)
        return password

    def _keep(self, name: str, value: str) -> None:
        full = f"{self.name}-{name}"
        podman("secret", "create", "--replace", full, "-", given=value)
        if full not in self._secrets:
            self._secrets.append(full)

    def _secret_file(self, name: str, file: str) -> tuple[str, ...]:
        """Returns the options that put a secret into a file below /run/secrets, where a read-only root has no place for it."""
        return ("--tmpfs=/run/secrets", f"--secret={self.name}-{name},target={file},mode=0444")

    def _start(self, name: str, inside: Contained) -> None:
        """Starts a container in the background, which podman starts again whenever it ends."""
        options = self._options(name, inside)
        podman("run", "--detach", "--replace", "--restart=always", *options, inside.image, *inside.arguments)

    def _options(self, name: str, inside: Contained) -> list[str]:
        return [
            f"--name={self.name}-{name}",
            f"--pod={self.name}",
            f"--label=deepwell.deployment={self._declaration.name}",
            *_LOCKED,
            *(f"--volume={one}:{path}:ro" for one, path in inside.folders),
            *(f"--volume={one}:{one}" for one in inside.writable),
            *(f"--volume={one}" for one in inside.volumes),
            *(f"--env={name}={value}" for name, value in inside.variables),
            *(f"--secret={secret},type=env,target={variable}" for secret, variable in inside.secrets),
            *inside.options,
        ]


def _host(host: str) -> str:
    return "" if host in (ANY, "::") else f"[{host}]:" if ":" in host else f"{host}:"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def check_mounted(path: Path) -> None:
    """Checks that a path can be mounted.

    Raises:
        InvalidRequest: it has a colon, behind which podman and compose would read another place and its options.
    """
    if ":" in str(path.absolute()):
        raise InvalidRequest(
            f"podman mounts no path with a colon: {path}", fix="move it to a path without one"
        )


def inside_release(release: Release) -> tuple[Release, tuple[tuple[Path, str], ...]]:
    """Returns a release with the paths that it has inside a container, and the paths of this machine for each.

    They lie below a folder of their own there, because the user of the container may not pass through every folder of this
    machine: `/root` is one.

    Raises:
        InvalidRequest: a path has a colon.
    """
    found: dict[Path, str] = {}

    def inside(text: str) -> str:
        path = Path(text)
        if os.sep not in text or not path.exists():
            return text
        check_mounted(path)
        return found.setdefault(path, f"{_GIVEN}/{len(found)}/{path.name}")

    adapters = tuple(
        f"{name}={inside(path)}" for name, _, path in (one.partition("=") for one in release.adapters)
    )
    policy = None if release.policy is None else inside(release.policy)
    moved = replace(release, base=inside(release.base), adapters=adapters, policy=policy)
    return moved, tuple(found.items())
