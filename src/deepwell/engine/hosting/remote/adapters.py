"""`RemoteAdapters`: the LoRA adapters of a server, asked for by their names as models."""

from __future__ import annotations

import hashlib
import secrets
import threading
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from deepwell.engine.hosting.remote.address import RemoteOptions
from deepwell.engine.hosting.remote.faults import Retry, lacking, refused, said_by, unreachable
from deepwell.engine.hosting.remote.parts import decoded
from deepwell.engine.hosting.remote.transport import body_of, bounded_answer, client_options
from deepwell.engine.protocol import AdapterInfo
from deepwell.errors import ModelNotFound, UnsupportedModel

__all__ = ["ListedModel", "RemoteAdapters", "models_of"]

_WEIGHTS: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


class ListedModel(msgspec.Struct):
    """A model of `/v1/models`. Those with a `parent` are adapters."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    parent: str | None = None
    root: str | None = None
    max_model_len: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[ListedModel]


def models_of(body: bytes, url: str) -> list[ListedModel]:
    """Returns the models of a list.

    Raises:
        EngineUnavailable: it is no list of models.
    """
    return decoded(body, _Models, url).data


class RemoteAdapters:
    """The adapters that the server has for one model. Methods may be called from any thread.

    Args:
        model: name of the model on the server.
        loads: whether the server loads adapters at run time.
    """

    def __init__(self, options: RemoteOptions, model: str, *, loads: bool) -> None:
        self.model = model
        self._options = options
        self._url = options.address.url
        self._loads = loads
        self._lock = threading.Lock()
        self._known: dict[str, AdapterInfo] = {}
        self._ours: dict[
            str, AdapterInfo
        ] = {}  # loaded by this process, and so again when the server has lost them

    def known(self) -> tuple[AdapterInfo, ...]:
        """Returns the adapters, as of the last look."""
        with self._lock:
            return tuple(self._known.values())

    def listed(self, body: bytes) -> None:
        """Takes the server's list of models. Those of this process keep their digests.

        Raises:
            EngineUnavailable: it is no list of models.
        """
        found = {one.id: one for one in models_of(body, self._url) if one.parent and one.id != self.model}
        with self._lock:
            self._known = {
                name: self._known.get(name) or _unread(name, one.root or "", one.root or "")
                for name, one in found.items()
            }

    def load(self, name: str, path: str) -> AdapterInfo:
        """Has the server load an adapter, in place of one of the same name.

        Raises:
            UnsupportedModel: the server loads none at run time, or refuses this one.
        """
        self._must_load()
        with self._lock:
            loaded = name in self._known
        body = {"lora_name": name, "lora_path": path, "load_inplace": loaded}
        status, said = self._post("/v1/load_lora_adapter", body)
        if status != 200:
            raise UnsupportedModel.of("engine_adapter_refused", url=self._url, name=name, reason=said)
        info = _info(name, path)
        with self._lock:
            self._known[name] = self._ours[name] = info
        return info

    def restore(self) -> None:
        """Has the server load again what this process had loaded, and a server that was started again has lost.

        Raises:
            DeepwellError: as `load` says.
        """
        with self._lock:
            lost = [info for name, info in self._ours.items() if name not in self._known]
        for info in lost:
            self.load(info.name, info.path)

    def unload(self, name: str) -> None:
        """Has the server forget an adapter.

        Raises:
            ModelNotFound: the server has no such adapter.
        """
        self._must_load()
        status, _ = self._post("/v1/unload_lora_adapter", {"lora_name": name})
        with self._lock:
            self._known.pop(name, None)
            self._ours.pop(name, None)
        if status != 200:
            raise ModelNotFound(f"no adapter {name!r} is loaded", fix="load it first", param="model")

    def _must_load(self) -> None:
        if not self._loads:
            raise lacking(self._url, "adapters", "lora_name")

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        import httpx

        try:
            with httpx.Client(**client_options(self._options)) as http:
                headers = {"content-type": "application/json"}
                seconds, sent = self._options.first_s, body_of(body)
                status, said = bounded_answer(
                    http, "POST", self._url + path, self._url, seconds, content=sent, headers=headers
                )
        except httpx.HTTPError as error:
            raise unreachable(self._url, f"{type(error).__name__}: {error}") from None
        if status in (401, 403, 429, 502, 503, 504):
            found = refused(self._url, status, said)
            raise found.error if isinstance(found, Retry) else found
        return status, said_by(said)


def _info(name: str, path: str) -> AdapterInfo:
    """Returns what is known of an adapter: of the files where they lie here as well, else a digest that no other load has."""
    folder, digest = Path(path), hashlib.sha256()
    for file in _WEIGHTS:
        if (folder / file).is_file():
            with (folder / file).open("rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
    if not (folder / _WEIGHTS[0]).is_file():
        return _unread(name, f"{path}\0{secrets.token_hex(8)}", path)
    return AdapterInfo(name, path, digest.hexdigest()[:32], _rank(folder))


def _rank(folder: Path) -> int:
    try:
        return int(msgspec.json.decode((folder / _WEIGHTS[0]).read_bytes()).get("r", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        return 0


def _unread(name: str, identity: str, path: str) -> AdapterInfo:
    """Returns what is known of an adapter whose files are elsewhere: its rank is not."""
    return AdapterInfo(name, path, hashlib.sha256(f"{name}\0{identity}".encode()).hexdigest()[:32], 0)
