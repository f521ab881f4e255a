"""`Declaration`: what a deployment consists of, read from one YAML file, `deploy.yaml`, for every grade.

    name: chat
    grade: machine                 # machine, containers or mesh
    alias: smollm2@prod            # what clients ask for
    model: smollm2                 # what the alias means first
    replicas: 2
    port: 8000
    serve: {context: 4096, threads: 1}
    rollout:
      steps: [5, 25, 50, 75, 100]
      hold_seconds: 30
      gates: {error_rate: 0.01, first_token_p95_ms: 250}

Every error names the line, the key and the fix.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from deepwell.errors import InvalidRequest
from deepwell.fleet.cluster.terms import MeshTerms, check_image
from deepwell.fleet.deploy.blobs import BlobTerms
from deepwell.messages import nearest
from deepwell.storage.aliases import check_alias
from deepwell.storage.blobs.place import read_credentials
from deepwell.storage.registry.story import Kind, Steps

__all__ = [
    "BlobTerms",
    "ContainerTerms",
    "Declaration",
    "Evaluation",
    "Gates",
    "Grade",
    "RolloutTerms",
    "ServeOptions",
    "credentials_of",
    "load_declaration",
    "secret_of",
]

Grade = Literal["machine", "containers", "mesh"]
"""The three grades: processes of one machine, containers, a service mesh."""

_MOST_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_MOST_SECRET: Final = 4096
# Names of hosts and addresses stand in commands and configurations of other programs.
_HOST: Final = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,252})|[0-9A-Fa-f:.]{2,45}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServeOptions(_Part):
    """Options of `deepwell serve` for every replica; unset: as the settings say."""

    context: int | None = Field(default=None, ge=16)
    threads: int | None = Field(default=None, ge=1)
    precision: str | None = None
    batch_size: int | Literal["auto"] | None = None
    kv_tokens: int | None = Field(default=None, ge=16)
    kv_dtype: str | None = None
    speculation: str | None = None
    workers: int | None = Field(default=None, ge=1, le=64)
    response_cache_mb: int | None = Field(default=None, ge=0)
    context_policy: str | None = None

    @field_validator("precision", "kv_dtype", "speculation", "context_policy")
    @classmethod
    def _no_option(cls, text: str | None) -> str | None:
        if text is not None and (text.startswith("-") or not text.isprintable()):
            raise ValueError("a value is printable, and begins with no hyphen: it stands in a command")
        return text

    def flags(self) -> list[str]:
        """Returns the options as arguments of the command."""
        given = self.model_dump(exclude_none=True)
        return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


class Evaluation(_Part):
    """Questions that the candidate answers before it gets any user.

    Attributes:
        questions: file of lines of JSON, each with `question` and `expected`, a text that the answer has to contain.
        least: share of the answers that have to be right.
    """

    questions: Path
    least: float = Field(gt=0, le=1)


class Gates(_Part):
    """Bounds on how much worse the candidate may be than the current release, each as a difference.

    Attributes:
        error_rate: failed requests, as a share.
        refusal_rate: requests that are answered with a status of 400 to 499, as a share.
        first_token_p95_ms: 95th percentile of the time to the first token.
        guard_rate: requests that the guard did not simply let through, as a share.
        least_requests: answers of the candidate that a share has to have seen before the next.
    """

    error_rate: float | None = Field(default=0.01, ge=0, le=1)
    refusal_rate: float | None = Field(default=0.05, ge=0, le=1)
    first_token_p95_ms: float | None = Field(default=None, gt=0, le=86_400_000)
    guard_rate: float | None = Field(default=None, ge=0, le=1)
    evaluation: Evaluation | None = None
    least_requests: int = Field(default=20, ge=0)


class RolloutTerms(_Part):
    """Terms of roll-outs, where `deepwell rollout start` does not name others.

    Attributes:
        steps: shares of the users in percent, one after the other; the last is 100.
        hold_seconds: time that each share is held.
        start_seconds: time in which all replicas of a candidate become ready, or the roll-out is aborted; a mesh has its
            startup probe for that.
        conversation_seconds: time for which conversations that began before a promotion keep their version.
        drain_seconds: time that answers of the old version may still go on after that.
    """

    kind: Kind = "canary"
    steps: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (5, 25, 50, 75, 100)
    hold_seconds: float = Field(default=30, ge=0, le=86_400)
    start_seconds: float = Field(default=600, gt=0, le=86_400)
    conversation_seconds: float = Field(default=60, ge=0, le=86_400)
    drain_seconds: float = Field(default=120, ge=0, le=86_400)
    gates: Gates = Gates()

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or list(steps) != sorted(set(steps)) or steps[-1] != 100:
            raise ValueError("steps are percentages that rise to 100, such as [5, 25, 50, 75, 100]")
        return steps

    def for_ledger(self) -> Steps:
        """Returns the steps as the ledger has them; of blue_green, the one that switches all users."""
        shares = (1.0,) if self.kind == "blue_green" else tuple(one / 100 for one in self.steps)
        return Steps(self.kind, shares, self.hold_seconds)


class ContainerTerms(_Part):
    """Images of the grade `containers`, and its Prometheus.

    Attributes:
        image: image of the replicas.
        prometheus_port: port of Prometheus on the loopback; unset: there is none.
    """

    image: str = Field(default="localhost/deepwell:api", min_length=1)
    haproxy: str = Field(default="localhost/deepwell-haproxy:latest", min_length=1)
    postgres: str = Field(default="localhost/deepwell-postgres:17", min_length=1)
    valkey: str = Field(default="localhost/deepwell-valkey:latest", min_length=1)
    prometheus: str = Field(default="localhost/deepwell-prometheus:latest", min_length=1)
    prometheus_port: int | None = Field(default=None, ge=1, le=65535)

    @field_validator("image", "haproxy", "postgres", "valkey", "prometheus")
    @classmethod
    def _reference(cls, image: str) -> str:
        return check_image(image)


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Declaration(_Part):
    """A deployment.

    Attributes:
        name: names its state, so that several may run on one machine.
        alias: what clients ask for. A release is what it means: a version of the registry, or the model.
        model: what the alias means where nothing was promoted yet, and the base of versions that are adapters.
        adapters: further adapters of every release, as NAME=PATH.
        host: address that the front listens on.
        policy: policy of the guard; a version may carry its own.
        knowledge: knowledge base that grounds answers; a version may carry its own.
        database: `file:PATH` of a file with the URL of a PostgreSQL database; unset: the one of the settings, and in the grade
            `containers` one of its own.
        valkey: likewise of a Valkey.
        blobs: bucket of the files; unset: as the settings say, and in the grade `containers` a volume.
    """

    name: str
    grade: Grade = "machine"
    alias: str
    model: str = Field(min_length=1)
    adapters: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    replicas: int = Field(default=2, ge=1, le=64)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    front: Literal["auto", "haproxy", "own"] = "auto"
    serve: ServeOptions = ServeOptions()
    policy: str | None = None
    knowledge: str | None = None
    database: str | None = None
    valkey: str | None = None
    blobs: BlobTerms | None = None
    rollout: RolloutTerms = RolloutTerms()
    containers: ContainerTerms = ContainerTerms()
    mesh: MeshTerms = MeshTerms()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "use at most 40 small letters, digits and hyphens between them, such as chat-prod"
            )
        return name

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        if not _HOST.fullmatch(host):
            raise ValueError("name an address or a host, such as 127.0.0.1")
        return host

    @field_validator("model", "policy", "knowledge")
    @classmethod
    def _no_option(cls, name: str | None) -> str | None:
        if name is not None and (name.startswith("-") or not name.isprintable()):
            raise ValueError("a name is printable, and begins with no hyphen: it stands in a command")
        return name

    @field_validator("adapters")
    @classmethod
    def _named(cls, adapters: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := next((one for one in adapters if not all(one.partition("=")[::2])), None):
            raise ValueError(f"{wrong!r} names no adapter: write NAME=PATH")
        if wrong := next((one for one in adapters if one.startswith("-") or not one.isprintable()), None):
            raise ValueError(f"{wrong!r} is not printable, or begins with a hyphen: it stands in a command")
        return adapters

    @field_validator("database", "valkey")
    @classmethod
    def _by_file(cls, place: str | None) -> str | None:
        # A URL has a password in it, and a declaration is committed and shown.
        if place is not None and not (place.startswith("file:") and place.isprintable()):
            raise ValueError("name a file that holds the URL, such as file:/run/secrets/database")
        return place

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.grade == "containers" and self.front == "own":
            raise ValueError("the grade containers has haproxy in front: leave `front` out")
        try:
            check_alias(self.alias, self.model)
        except InvalidRequest as error:
            raise ValueError(f"{error.message}: {error.fix}") from None
        return self


def load_declaration(path: Path) -> Declaration:
    """Reads a declaration.

    Raises:
        InvalidRequest: the file is missing, is no YAML, or has a key or a value that no declaration has; the message names
            line and key.
    """
    data, lines = _read(path)
    try:
        made = Declaration.model_validate(data)
    except ValidationError as error:
        problems = [
            _problem(one, path, lines) for one in error.errors(include_url=False, include_input=False)
        ]
        raise (problems[0] if len(problems) == 1 else InvalidRequest.joined(problems)) from None
    return _placed(made, path.absolute().parent)


def secret_of(place: str) -> str:
    """Returns what the file of a `file:PATH` holds, without the blanks around it.

    Raises:
        InvalidRequest: it cannot be read, or is empty.
    """
    path = Path(place.removeprefix("file:"))
    try:
        if path.exists() and not path.is_file():  # a device has no end, and a pipe waits for its writer
            raise InvalidRequest.of("deploy_secret", file=path, reason="it is no ordinary file")
        with path.open("rb") as file:
            raw = file.read(_MOST_SECRET + 1)
        text = raw[:_MOST_SECRET].decode(errors="strict" if len(raw) <= _MOST_SECRET else "replace").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest.of(
            "deploy_secret", file=path, reason=getattr(error, "strerror", None) or error
        ) from None
    if not text or len(raw) > _MOST_SECRET:
        raise InvalidRequest.of(
            "deploy_secret", file=path, reason="it is empty" if not text else "it is too long"
        )
    return text


def credentials_of(place: str) -> str:
    """Returns what the file of an object store's credentials holds.

    Raises:
        InvalidRequest: it cannot be read, or has no key.
    """
    path = Path(place.removeprefix("file:"))
    if path.exists() and not path.is_file():
        raise InvalidRequest.of("blobs_credentials", file=path, reason="it is no ordinary file")
    read_credentials(path)
    return secret_of(place)


def _placed(made: Declaration, folder: Path) -> Declaration:
    """Returns the declaration with its paths from the folder of the file, wherever the command runs."""

    def at(place: str | None) -> str | None:
        if place is None or not place.startswith("file:"):
            return place
        return f"file:{folder / place.removeprefix('file:')}"

    changes: dict[str, Any] = {"database": at(made.database), "valkey": at(made.valkey)}
    if made.blobs is not None:
        changes["blobs"] = made.blobs.model_copy(update={"credentials": at(made.blobs.credentials)})
    if made.policy is not None and made.policy.endswith((".yaml", ".yml")):
        changes["policy"] = str(folder / made.policy)
    changes["adapters"] = tuple(
        f"{name}={folder / place}" for name, _, place in (one.partition("=") for one in made.adapters)
    )
    if made.mesh.base is not None:
        changes["mesh"] = made.mesh.model_copy(update={"base": folder / made.mesh.base})
    if (evaluation := made.rollout.gates.evaluation) is not None:
        placed = evaluation.model_copy(update={"questions": folder / evaluation.questions})
        gates = made.rollout.gates.model_copy(update={"evaluation": placed})
        changes["rollout"] = made.rollout.model_copy(update={"gates": gates})
    return made.model_copy(update=changes)


def _read(path: Path) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """Returns what a YAML file says, and the line of every key by its place."""
    import yaml

    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise InvalidRequest.of("deploy_missing", file=path) from None
    except OSError as error:
        raise InvalidRequest.of("deploy_unreadable", file=path, reason=error.strerror or error) from None
    if len(raw) > _MOST_BYTES:
        raise InvalidRequest.of("deploy_unreadable", file=path, reason="it has more than 1 MB")
    try:
        text = raw.decode()
        if "&" in text and any(isinstance(one, yaml.AnchorToken) for one in yaml.scan(text)):
            raise InvalidRequest.of("deploy_unreadable", file=path, reason="it has anchors (&NAME)")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[Any, ...], int] = {}
        _note_lines(tree, (), lines, path)
        return yaml.safe_load(text), lines
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("deploy_unreadable", file=path, reason=error) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = 0 if mark is None else mark.line + 1
        raise InvalidRequest.of(
            "deploy_not_yaml",
            file=path,
            line=where,
            reason=getattr(error, "problem", None)
            or ("it nests too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]),
        ) from None


def _note_lines(node: Any, place: tuple[Any, ...], lines: dict[tuple[Any, ...], int], path: Path) -> None:
    """Notes the line of every key.

    Raises:
        InvalidRequest: a key stands twice, of which YAML would take the last.
    """
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no plain name", problem_mark=key.start_mark)
            here = (*place, key.value)
            if here in lines:
                raise InvalidRequest.of(
                    "deploy_key_twice", file=path, line=key.start_mark.line + 1, key=".".join(map(str, here))
                )
            lines[here] = key.start_mark.line + 1
            _note_lines(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[*place, number] = value.start_mark.line + 1
            _note_lines(value, (*place, number), lines, path)


def _problem(problem: Any, path: Path, lines: dict[tuple[Any, ...], int]) -> InvalidRequest:
    place = tuple(one for one in problem["loc"] if one not in ("int", "literal['auto']"))
    line = next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 1)
    key = ".".join(map(str, place))
    where = {"file": path, "line": line, "key": key or "the whole"}
    if problem["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        right = nearest(str(place[-1]), known)
        if right:
            return InvalidRequest.of(
                "deploy_key_near", right=".".join(map(str, (*place[:-1], right))), **where
            )
        return InvalidRequest.of("deploy_key_unknown", known=", ".join(known), **where)
    if problem["type"] == "missing":
        return InvalidRequest.of("deploy_key_missing", **where)
    return InvalidRequest.of("deploy_value", reason=problem["msg"].removeprefix("Value error, "), **where)


_PARTS: Final[dict[tuple[str, ...], type[BaseModel]]] = {
    (): Declaration,
    ("serve",): ServeOptions,
    ("blobs",): BlobTerms,
    ("containers",): ContainerTerms,
    ("mesh",): MeshTerms,
    ("rollout",): RolloutTerms,
    ("rollout", "gates"): Gates,
    ("rollout", "gates", "evaluation"): Evaluation,
}


def _keys_at(place: tuple[Any, ...]) -> list[str]:
    return list(_PARTS.get(place, Declaration).model_fields)
