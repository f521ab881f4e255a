"""`CompressionRun`: one claim of a job that makes a smaller model, which appears in the model store."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from deepwell.errors import DeepwellError, ModelNotFound
from deepwell.models.store.store import ModelStore
from deepwell.safety.audit.trail import now_ms
from deepwell.safety.privacy.trained import made_by
from deepwell.server.families.fine_tuning.configured import CONFIG_NAME, training_threads
from deepwell.server.families.fine_tuning.works.following import WorkRun, base_model
from deepwell.storage.safety.chain import AuditRecord
from deepwell.tuning.compress.worker import CompressConfig, Convert, MadeBy, Prune, Quantise

__all__ = ["CompressionRun", "StoreUnavailable", "drop_partial", "options_of"]

_MODULE: Final = "deepwell.tuning.compress.worker"
_STEPS: Final = {
    "activations": "Reads what the text does in the model",
    "layers": "Looks for the layers that matter least",
    "candidates": "Compares candidates",
    "experts": "Divides MLPs into experts",
    "quantise": "Quantises the layers",
    "recovery": "Recovers: the result learns from the donor",
    "held-out: donor": "Measures the donor on the held-out text",
    "held-out: result": "Measures the result on the held-out text",
}


class StoreUnavailable(DeepwellError):
    """Raised where a server has no model store to put a result into."""

    status = 501
    code = "compression_unavailable"


def options_of(asked: dict[str, Any]) -> Prune | Convert | Quantise:
    """Returns the options of a checked request."""
    method = asked["method"]
    given = {name: value for name, value in (asked[method] or {}).items() if value is not None}
    kinds: Any = Prune | Convert | Quantise
    return msgspec.convert({"method": method, **given}, kinds)


def drop_partial(folder: Path) -> None:
    """Deletes what the compression of a folder had begun to bring into the store. Blocks."""
    with suppress(OSError, msgspec.MsgspecError):
        config = msgspec.json.decode((folder / CONFIG_NAME).read_bytes(), type=CompressConfig)
        ModelStore(Path(config.models_dir)).drop_partial(config.name)


class CompressionRun(WorkRun):
    """A compression. Its result is a model of the store, which all tenants of the server may use."""

    what = "compression"
    copies: ClassVar = {"text.txt": "text_file", "held-out.txt": "held_out_file"}

    def module(self) -> tuple[str, ...]:
        """Returns the program that compresses."""
        return (sys.executable, "-P", "-m", _MODULE)

    async def config(self) -> CompressConfig:
        """Copies the texts, and returns the configuration of the compression."""
        asked, catalog = self._payload.asked, self._context.options.catalog
        if catalog is None:
            raise StoreUnavailable.of("compression_no_store")
        model = await base_model(self._context, self.tenant, asked["model"])
        text, held_out = "", ""
        if asked["text_file"] is not None:
            text = await self.copied(asked["text_file"], "text.txt")
        if asked["held_out_file"] is not None:
            held_out = await self.copied(asked["held_out_file"], "held-out.txt")
        id = self._run.job.id
        owner = await self._context.state.works.owner(self.tenant, id)
        return CompressConfig(
            model=str(model.codec.path or model.name),
            name=self._name(),
            models_dir=str(catalog.settings.models_dir),
            made_by=MadeBy(id, owner, self._payload.files),
            options=options_of(asked),
            text=text,
            held_out=held_out,
            threads=training_threads(),
        )

    def clear(self) -> None:
        """Deletes the result, or the part of it that was on its way into the store. Blocks."""
        catalog = self._context.options.catalog
        if catalog is None:
            return
        drop_partial(self._folder)
        store, name = ModelStore(catalog.settings.models_dir), self._name()
        made = made_by(store, name)
        if made is not None and made.job == self._run.job.id:
            with suppress(ModelNotFound):
                store.remove(name)

    def _name(self) -> str:
        asked = self._payload.asked
        if asked["name"] is not None:
            return asked["name"]
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", asked["model"]).strip("-._") or "model"
        return f"{base[:60]}-{asked['method']}-{self._run.job.id.partition('-')[2][:6]}"

    def take(self, event: dict[str, Any]) -> None:
        """Takes the step that is under way and its share."""
        if event["event"] != "progress":
            return
        step = str(event["step"])
        self._progress.step, self._progress.unit = step, "%"
        self._progress.done, self._progress.total = round(100 * float(event["done"]), 1), 100
        self._progress.tell(_STEPS.get(step, step), kind=step)

    async def publish(self, told: dict[str, Any]) -> dict[str, Any]:
        """Tells of the model in the audit trail, and returns its figures."""
        record = {name: value for name, value in told["record"].items() if name != "made_by"}
        fields = {
            "action": "publish",
            "job": self._run.job.id,
            "base": self._payload.asked["model"],
        }
        audit = AuditRecord("compression", now_ms(), fields, named={"model": told["model"]})
        await self._context.audit.record(self.tenant, audit, durable=True)
        self._progress.tell(f"New model in the store: {told['model']}", kind="made")
        return {
            "compressed_model": told["model"],
            "bytes": told["bytes"],
            "base_bytes": told["base_bytes"],
            "held_out": record.pop("held_out", None),
            "record": record,
        }
