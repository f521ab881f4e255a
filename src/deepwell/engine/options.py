"""`EngineOptions`: the choices of how an engine runs a model, in one object from the settings to the memory plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.limits import Limits

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The options of an engine. An encoder ignores the options of the cache.

    Attributes:
        precision: "auto" runs 4-bit sources as int4 and everything else as int8.
        context: tokens a sequence may hold; see `plan`.
        kv_tokens: tokens of the KV cache; see `plan`.
        batch_size: sequences that one step computes together; see `plan`.
        threads: threads of the native backend; None: the processors that affinity and cgroup allow.
        speculation: "auto" drafts tokens if that pays. "off" gives the same answers, and also skips a model's
            multi-token prediction layer.
        isa: kernel table to use; None: `DEEPWELL_ISA`, else the best for this machine.
        cache_dir: folder that keeps packed weights for the next start; None: they are not kept.
        name: value of `capabilities().model`; the file's name if empty.
        limits: limits of one step.
        turns: file by which the engine processes of one server take turns on the cores (`process.turns`), the same for
            all; it is made if it is not there. None: this engine has the cores for itself.
    """

    precision: Precision | Literal["auto"] = "auto"
    context: int | None = None
    kv_dtype: KVDtype = "bf16"
    kv_tokens: int | None = None
    batch_size: int | None = None
    threads: int | None = None
    speculation: Literal["auto", "off"] = "auto"
    backend: Literal["auto", "native", "reference"] = "auto"
    isa: str | None = None
    cache_dir: Path | None = None
    name: str = ""
    limits: Limits | None = None
    turns: Path | None = None

    @classmethod
    def of(cls, settings: Settings, *, name: str = "") -> EngineOptions:
        """Reads the options from the settings."""
        return cls(
            precision=settings.precision,
            context=settings.context,
            kv_dtype=settings.kv_dtype,
            kv_tokens=settings.kv_tokens,
            batch_size=settings.batch_size,
            threads=settings.threads,
            speculation=settings.speculation,
            isa=settings.isa,
            cache_dir=settings.packed_folder,
            name=name,
        )

    def encode(self) -> bytes:
        """Returns the options as bytes that another process reads with `decode`."""
        return msgspec.msgpack.encode(self, enc_hook=str)

    @classmethod
    def decode(cls, data: bytes) -> EngineOptions:
        """Reads what `encode` wrote."""
        return msgspec.msgpack.decode(data, type=cls, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"{kind.__name__} is not among the options")
