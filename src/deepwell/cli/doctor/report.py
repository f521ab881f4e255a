"""The report of doctor: what this installation can do here, what is missing, and what is broken."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from deepwell.cli.doctor.devices import environment_findings
from deepwell.cli.doctor.engines import examine_engine
from deepwell.cli.doctor.findings import Finding, found
from deepwell.cli.doctor.improve import examine_improve
from deepwell.cli.doctor.machine import machine_findings
from deepwell.cli.doctor.stores import store_findings
from deepwell.cli.keys import has_stored_key
from deepwell.cli.output import extra_command
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["PACKAGES", "examine"]

PACKAGES = ("numpy", "tokenizers", "fastapi", "uvicorn", "pydantic", "prometheus-client")
_EXTRAS = {
    "knowledge": (
        "tantivy",
        "usearch",
        "pypdfium2",
        "docx",
        "openpyxl",
        "pptx",
        "selectolax",
        "feedparser",
    ),
    "s3": ("obstore",),
    "speech": ("faster_whisper", "ctranslate2", "onnxruntime", "av", "jieba", "pypinyin"),
    "images": ("onnxruntime", "PIL"),
    "diffusers": ("torch", "transformers", "diffusers"),
    "c2pa": ("c2pa",),
    "agents": ("mcp", "jsonschema", "sqlglot"),
    "rules": ("zen", "clingo"),
    "ray": ("ray", "grpc"),
    "ocr": ("rapidocr_onnxruntime",),
    "tensorboard": ("tensorboard",),
    "jupyter": ("jupyterlab", "ipykernel", "openai"),
    "tune": ("torch", "transformers", "peft"),
}


def examine(settings: Settings) -> tuple[dict[str, Any], list[Finding]]:
    """Returns everything that doctor shows, as JSON, and the problems in it."""
    problems: list[Finding] = []
    report: dict[str, Any] = {
        "versions": _versions(),
        "kernels": _kernels(settings, problems),
        "threads": _threads(settings),
        "model": _model(settings, problems),
        "engine": examine_engine(settings, problems),
        "store": _store(settings),
        "files": _files(settings),
        "recognition": _recognition(settings),
        "speech": _speech(settings),
        "images": _images(settings, problems),
        "server": _server(settings, problems),
        "guard": _guard(settings, problems),
        "confinement": _confinement(settings, problems),
        "sandbox": _sandbox(),
        "energy": _energy(),
        "improve": examine_improve(settings, problems),
        "deploy": _deploy(),
        "extras": _extras(),
        "settings": _settings(settings),
    }
    problems += [*machine_findings(settings), *store_findings(settings), *environment_findings()]
    return report | {"problems": [problem.shown() for problem in problems]}, problems


def _versions() -> dict[str, str]:
    found = {
        "deepwell": deepwell_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _kernels(settings: Settings, problems: list[Finding]) -> dict[str, Any]:
    from deepwell.engine.backends import native
    from deepwell.errors import MissingDependency

    try:
        native.select_backend("native", settings.isa)
    except MissingDependency as error:
        problems.append(Finding("kernels", error))
        if not native.is_available():
            return {"backend": "reference", "reason": error.message, "isa": "numpy", "available": []}
    return {"backend": "native", "reason": "", "isa": native.isa(), "available": native.available_isas()}


def _threads(settings: Settings) -> dict[str, Any]:
    from deepwell.engine.machine import usable_cpus

    usable = usable_cpus()
    return {"used": settings.threads or usable, "usable": usable, "machine": os.cpu_count()}


def _model(settings: Settings, problems: list[Finding]) -> dict[str, Any]:
    """The main model, by the plan of all models that `serve` makes before it loads one."""
    from deepwell.cli.loading import plan_server
    from deepwell.errors import DeepwellError

    try:
        planned = plan_server(settings).planned
    except DeepwellError as error:
        problems.append(Finding("model", error))
        return {"name": settings.model, "plan": []}
    if settings.engine != "native":
        return _model_beyond(settings)
    if not planned:
        return {"name": "none at the start: models are loaded on demand", "plan": []}
    main = planned[0]
    return {
        "name": main.name,
        "path": str(main.path),
        "plan": main.memory.lines(),
        "sampling": main.defaults.shown(),
    }


def _model_beyond(settings: Settings) -> dict[str, Any]:
    """The text side of a model whose engine is elsewhere: it takes no memory here."""
    from deepwell.models.store.store import ModelStore

    stored = ModelStore(settings.models_dir).resolve(settings.model)
    return {"name": stored.name, "path": str(stored.path), "plan": []}


def _store(settings: Settings) -> dict[str, Any]:
    folder = settings.models_dir
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return {"folder": str(folder), "models": [name for name in found if not name.startswith(".")]}


def _files(settings: Settings) -> dict[str, str]:
    """The place of the bytes of files: a folder, or a bucket with copies in that folder."""
    folder = str(settings.data_dir / "files")
    if settings.blobs is None:
        return {"place": folder}
    return {"place": settings.blobs, "endpoint": settings.blobs_endpoint or "Amazon S3", "copies": folder}


def _recognition(settings: Settings) -> dict[str, str]:
    """The model of the setting `recognition_model`. One that is not here is no problem: speech is an extra."""
    from deepwell.errors import DeepwellError
    from deepwell.media.recognition.model import RecognitionModel
    from deepwell.models.store.store import ModelStore

    name = settings.recognition_model
    try:
        stored = ModelStore(settings.models_dir).resolve(name)
        RecognitionModel.of(stored.name, stored.path)
    except DeepwellError as error:
        return {"model": name, "state": f"not here: {error.fix}"}
    return {"model": name, "state": str(stored.path)}


def _speech(settings: Settings) -> dict[str, str]:
    """The model of the setting `speech_model`. One that is not here is no problem: speech is an extra."""
    from deepwell.errors import DeepwellError
    from deepwell.media.speech.options import open_speech_model
    from deepwell.models.store.store import ModelStore

    name = settings.speech_model
    try:
        model = open_speech_model(ModelStore(settings.models_dir), name)
        place = model.name if model.backend == "espeak" else model.folder
        return {"model": name, "state": f"{place}  {len(model.voices)} voices"}
    except DeepwellError as error:
        return {"model": name, "state": f"not here: {error.fix}"}


def _images(settings: Settings, problems: list[Finding]) -> dict[str, str]:
    """The model of the setting `image_model`, and the one that looks at images, which is a problem only if it is required."""
    from deepwell.errors import DeepwellError
    from deepwell.media.images.options import SAFETY_NAME, find_safety, open_image_model
    from deepwell.models.store.store import ModelStore

    name, store = settings.image_model, ModelStore(settings.models_dir)
    try:
        state = str(open_image_model(store, name).folder)
    except DeepwellError as error:
        state = f"not here: {error.fix}"
    try:
        folder = find_safety(store, settings.image_guard)
    except DeepwellError as error:
        problems.append(Finding("images", error))
        return {"model": name, "state": state, "guard": f"not here: {error.fix}", "sight": _sight(settings)}
    off = settings.image_guard == "off"
    missing = f"{SAFETY_NAME} is not here, so nothing looks at images: run `deepwell pull {SAFETY_NAME}`"
    guard = str(folder) if folder is not None else "off" if off else missing
    return {"model": name, "state": state, "guard": guard, "sight": _sight(settings)}


def _sight(settings: Settings) -> str:
    """Tells about images that are attached to messages: the encoder that names them, and what reads text in them."""
    from deepwell.knowledge.parse.ocr import ocr_installed
    from deepwell.media.space.options import encoder_file

    file = encoder_file(settings.models_dir)
    names = str(file) if file.is_file() else "no names: run `deepwell media train space --encoder-only`"
    return f"{names}; {'text is read' if ocr_installed() else 'no text: the extra ocr is missing'}"


def _server(settings: Settings, problems: list[Finding]) -> dict[str, Any]:
    from deepwell.cli.servers import client_key, examine_server
    from deepwell.errors import DeepwellError
    from deepwell.server.http.listen import bind, local_url, url_of

    url = local_url(settings.host, settings.port)
    try:
        settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))
        with bind(settings.host, settings.port) as listener:
            return {"url": url_of(listener), "state": "free"}
    except DeepwellError as error:
        seen = examine_server(url, client_key(settings))
        if not seen.is_deepwell:
            problems.append(Finding("server", error))
            return {"url": url, "state": error.message}
        if not seen.is_ready:
            problems.append(found("server", "doctor_not_ready", url=url, detail=seen.detail))
        served = ", ".join(seen.models) or "a model, and asks for an API key to say which"
        return {"url": url, "state": f"a running server serves {served}: {seen.detail}"}


def _guard(settings: Settings, problems: list[Finding]) -> dict[str, Any]:
    """The policy of the setting `guard`, and the lists of terms that it names."""
    if settings.guard is None:
        return {"policy": "off", "lists": {}}
    from deepwell.errors import DeepwellError
    from deepwell.safety.policy import Policy
    from deepwell.safety.terms.lists import read_list
    from deepwell.safety.terms.pull import lists_folder

    lists: dict[str, str] = {}
    try:
        policy = Policy.load(settings.guard)
    except DeepwellError as error:
        problems.append(Finding("guard", error))
        return {"policy": settings.guard, "lists": lists}
    for name in policy.terms:
        try:
            lists[name] = f"{len(read_list(lists_folder(settings.models_dir), name).terms):,} terms"
        except DeepwellError as error:
            problems.append(Finding("guard", error))
            lists[name] = "not here"
    return {"policy": policy.name, "hash": policy.hash, "lists": lists}


def _confinement(settings: Settings, problems: list[Finding]) -> dict[str, Any]:
    """The walls around processes that read users' files. Weak ones are no problem unless a setting requires whole ones."""
    from deepwell.errors import InvalidRequest
    from deepwell.process.confinement.launch import walls

    found = walls()
    told = {
        "walls": found.names[0],
        "namespaces": found.spaces,
        "landlock": found.landlock,
        "whole": found.whole,
    }
    try:
        found.require()
    except InvalidRequest as error:
        told |= {"state": f"the walls around processes that read users' files are not whole: {found.reason}"}
        if settings.confinement == "required":
            problems.append(Finding("confinement", error))
            return told
        return told | {"fix": error.fix}
    return told | {"state": "users' files are read apart from this machine's files, processes and network"}


def _sandbox() -> dict[str, str]:
    """The way in which programs of a model are confined. None is no problem: such a program is refused."""
    from deepwell.agents.sandbox import SandboxUnavailable, sandbox_way

    try:
        return {"way": sandbox_way(), "state": "programs of a model run apart, without network"}
    except SandboxUnavailable as error:
        return {"way": "none", "state": f"programs of a model are refused: {error.message}", "fix": error.fix}


def _energy() -> dict[str, Any]:
    """The counters of energy that benchmarks and the architecture search read. None is no problem."""
    from deepwell.process.energy import EnergyMeter

    meter = EnergyMeter()
    if meter.packages:
        return {"packages": meter.packages, "state": f"RAPL: {meter.packages} packages, for joules a token"}
    told: dict[str, Any] = {"packages": 0, "state": f"no joules a token: {meter.reason}"}
    return told | {"fix": meter.fix} if meter.fix else told


def _deploy() -> dict[str, str]:
    """The front of deployments, and podman. Without haproxy there is our own front; both may be missing."""
    import shutil

    from deepwell.fleet.front.front import find_haproxy

    found, podman = find_haproxy(), shutil.which("podman")
    contained = "no podman, so none in containers" if podman is None else f"in containers by {podman}"
    if found is None:
        state = f"haproxy is not installed: deployments use Deepwell's own front; {contained}"
        return {"front": "own", "state": state, "fix": "apt-get install haproxy"}
    return {"front": "haproxy", "state": f"deployments use {found}; {contained}"}


def _extras() -> dict[str, str]:
    """Extras that are missing are no problem: each says the command that brings it."""
    states: dict[str, str] = {}
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        states[extra] = f"missing {', '.join(missing)}: {extra_command(extra)}" if missing else "installed"
    return states


def _settings(settings: Settings) -> dict[str, dict[str, Any]]:
    origins = settings.origins()
    values = settings.model_dump(mode="json")  # secrets come out as asterisks
    return {name: {"value": values[name], "origin": origins[name]} for name in values}
