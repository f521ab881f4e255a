"""The plan of `deepwell up`: what starts where, with which model, precision and memory, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepwell.cli.engines.gpus import check_devices, check_tensor_parallel, count_gpus
from deepwell.cli.output import extra_command
from deepwell.cli.up.grounding import base_name
from deepwell.cli.up.machine import claim_port, has_modules, is_container
from deepwell.cli.up.models import ChosenModels, choose_models
from deepwell.errors import InvalidRequest
from deepwell.messages import Note, language, say

if TYPE_CHECKING:
    from deepwell.dialogue.opening import Planned
    from deepwell.settings import Settings

__all__ = ["Asked", "Part", "PlatformPlan", "make_plan", "title_of"]

_TITLES = {"tensorboard": "TensorBoard", "jupyter": "JupyterLab"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `deepwell up` as they were given; None: not given."""

    models: tuple[str, ...] = ()
    model_path: Path | None = None
    precision: str | None = None
    batch_size: str | None = None
    tensor_parallel: str | None = None
    gpus: str | None = None
    knowledge: Path | None = None
    policy: str | None = None
    improve: bool = False
    host: str | None = None
    port: int | None = None
    tensorboard: int | None = 6006  # its port; None: it is left out
    jupyter: int | None = 8888


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the platform, with its place. `missing`: its extra is not installed, so it does not start."""

    name: str
    host: str
    port: int
    missing: bool = False

    @property
    def title(self) -> str:
        """Name of the part for people."""
        return title_of(self.name)

    @property
    def url(self) -> str:
        """URL for clients on this machine."""
        from deepwell.server.http.listen import local_url

        return local_url(self.host, self.port)


@dataclass(frozen=True, slots=True)
class PlatformPlan:
    """The platform that is to run.

    Attributes:
        settings: of the server and of everything else here.
        flags: options that the server is started with, by name; None: not given.
        planned: the models with their memory; empty: some have to be pulled first.
    """

    asked: Asked
    settings: Settings
    models: ChosenModels
    parts: tuple[Part, ...]
    flags: Mapping[str, object]
    container: bool
    gpus: int
    warnings: tuple[Note, ...]
    planned: tuple[Planned, ...] = ()

    @property
    def api(self) -> Part:
        """The API server with the console."""
        return self.parts[0]

    def part(self, name: str) -> Part | None:
        """Returns a part that starts."""
        return next((one for one in self.parts if one.name == name and not one.missing), None)

    def with_models(self, models: ChosenModels) -> PlatformPlan:
        """Returns the plan for models that are all here, with their memory.

        Raises:
            DeepwellError: a model cannot be served, or they do not fit.
        """
        from deepwell.dialogue.opening import plan_models

        main, *others = models.names
        settings = self.settings.model_copy(
            update={"model": main, "additional_models": others, "models_dir": models.models_dir}
        )
        planned = plan_models(settings, without_main=settings.engine != "native")
        return replace(self, settings=settings, models=models, planned=tuple(planned))

    def as_json(self) -> dict[str, Any]:
        """Returns the plan for programs."""
        by_name = {one.name: one for one in self.planned}
        names = by_name or dict.fromkeys(self.models.names)
        return {
            "models": [_model(name, one, name in self.models.missing) for name, one in names.items()],
            "precision": self.settings.precision,
            "batch_size": self.planned[0].memory.batch_size if self.planned else self.settings.batch_size,
            "engine": self.settings.engine,
            "tensor_parallel": self.settings.tensor_parallel or 1,
            "gpus": {"asked": self.asked.gpus, "present": self.gpus, "used": _used(self.settings, self.gpus)},
            "parts": [
                {
                    "name": one.name,
                    "url": one.url,
                    "missing": f"deepwell[{one.name}]" if one.missing else None,
                }
                for one in self.parts
            ],
            "host": self.settings.host,
            "container": self.container,
            "knowledge": None
            if self.asked.knowledge is None
            else {"name": self.settings.knowledge, "folder": str(self.asked.knowledge)},
            "policy": self.settings.guard,
            "data_dir": str(self.settings.data_dir),
            "warnings": [one.said("en") for one in self.warnings],
        }

    def lines(self) -> list[str]:
        """Returns the plan for people."""
        lines = [_part_line(one) for one in self.parts]
        for one in self.planned:
            lines += [f"{one.name}  {one.path}", *(f"  {line}" for line in one.memory.lines(language()))]
        if self.planned:
            memory = self.planned[0].memory
            lines.append(say("up_plan_batch", batch=memory.batch_size, tokens=memory.kv_cache_tokens))
        lines += [
            say("up_plan_pull", name=name, folder=self.models.models_dir) for name in self.models.missing
        ]
        if self.asked.knowledge is not None:
            lines.append(say("up_plan_knowledge", name=self.settings.knowledge, folder=self.asked.knowledge))
        if self.settings.guard is not None:
            lines.append(say("up_plan_policy", policy=self.settings.guard))
        return [*lines, *(one.said() for one in self.warnings)]


def make_plan(asked: Asked) -> PlatformPlan:
    """Reads the settings, and checks what was asked for against this machine. Nothing is started or fetched.

    Raises:
        DeepwellError: this machine cannot do it; the fix is the setting that works.
    """
    from deepwell.settings import Settings

    if asked.improve:
        raise InvalidRequest.of("improve_missing")
    check_tensor_parallel(
        asked.tensor_parallel, vllm=True
    )  # for what is no number; the settings are checked below
    gpus = count_gpus()
    given: dict[str, Any] = {
        "precision": asked.precision,
        "batch_size": asked.batch_size,
        "guard": asked.policy,
        "knowledge": None if asked.knowledge is None else base_name(asked.knowledge),
        "host": asked.host,
        "port": asked.port,
        "gpus": asked.gpus,
        "tensor_parallel": asked.tensor_parallel,
    }
    settings = Settings.load(**given)
    container = is_container(settings)
    if container and settings.origins()["host"] == "default":
        settings = Settings.load(**given | {"host": "0.0.0.0"})  # noqa: S104
    settings, warnings = check_devices(settings)
    if settings.guard is not None:
        from deepwell.safety.policy import Policy

        Policy.load(settings.guard)
    models = choose_models(settings, asked.models, asked.model_path)
    parts = _parts(asked, settings)
    if settings.is_exposed() and any(one.name == "tensorboard" and not one.missing for one in parts):
        warnings += (Note("up_tensorboard_open", {"port": parts[1].port}),)
    flags = {
        "host": settings.host,
        "port": parts[0].port,
        "precision": asked.precision,
        "batch-size": asked.batch_size,
        "guard": asked.policy,
        "knowledge": given["knowledge"],
        "engine": None if settings.engine == "native" else settings.engine,
        "gpus": settings.gpus if settings.engine == "vllm" else None,
        "tensor-parallel": settings.tensor_parallel if settings.engine == "vllm" else None,
        "models-dir": None if models.models_dir == settings.models_dir else models.models_dir,
    }
    plan = PlatformPlan(asked, settings, models, parts, flags, container, gpus, warnings)
    return plan if models.missing else plan.with_models(models)


def _parts(asked: Asked, settings: Settings) -> tuple[Part, ...]:
    """Returns the parts with their ports. Those whose extra is missing say how to bring it."""
    host = settings.host
    wanted = [("api", settings.port, "--port", "", "deepwell")]
    if (port := asked.tensorboard) is not None:
        wanted.append(("tensorboard", port, "--tensorboard-port", "--no-tensorboard", "tensorboard"))
    if (port := asked.jupyter) is not None:
        wanted.append(("jupyter", port, "--jupyter-port", "--no-jupyter", "jupyterlab"))
    parts: list[Part] = []
    for name, port, option, leave_out, module in wanted:
        if not has_modules(module):
            parts.append(Part(name, host, port, missing=True))
            continue
        if twice := next((one for one in parts if one.port == port and port and not one.missing), None):
            places = {"title": title_of(name), "other": twice.title, "port": port, "option": option}
            raise InvalidRequest.of("up_port_twice", **places, free=port + 1)
        parts.append(Part(name, host, claim_port(title_of(name), host, port, option, leave_out)))
    return tuple(parts)


def title_of(name: str) -> str:
    """Returns the name of a part for people."""
    return _TITLES.get(name) or say("up_title_api")


def _used(settings: Settings, present: int) -> int:
    """Returns how many GPUs vLLM gets."""
    if settings.engine != "vllm":
        return 0
    return present if settings.gpus in (None, "all") else int(str(settings.gpus))


def _part_line(part: Part) -> str:
    if not part.missing:
        return f"{part.title}{'：' if language() == 'zh' else ': '}{part.url}"
    command = extra_command(part.name)
    return say("up_extra_missing", title=part.title, command=command, option=f"--no-{part.name}")


def _model(name: str, planned: Planned | None, missing: bool) -> dict[str, Any]:
    if planned is None:
        return {"name": name, "path": None, "pull": missing}
    memory = asdict(planned.memory) | {"total_bytes": planned.memory.total_bytes}
    return {"name": name, "path": str(planned.path), "pull": False, "memory": memory}
