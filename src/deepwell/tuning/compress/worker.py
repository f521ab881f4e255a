"""The process of a compression: `python -m deepwell.tuning.compress.worker FOLDER` reads FOLDER/config.json and prints events.

It speaks the protocol of `deepwell.tuning.train.worker`, with the events progress, done and error. The result appears in the
model store as a whole, or not at all. A compression that was killed begins anew, unless its result is in the store already.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from deepwell.errors import InvalidFile, InvalidRequest
from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.store import ModelStore
from deepwell.tuning.compress.convert.experts import EXPERTS, layouts_for
from deepwell.tuning.compress.convert.export import check_convertible
from deepwell.tuning.compress.convert.limits import check_cached, check_exact
from deepwell.tuning.compress.shapes import WAYS, Way, check_prunable, shapes_for
from deepwell.tuning.evaluate.likelihood import Scorer, pieces_of, text_measures
from deepwell.tuning.evaluate.statistics import Measure, difference
from deepwell.tuning.evaluate.subjects import SubjectName, open_subjects
from deepwell.tuning.train.artefact import RECORD, record_text
from deepwell.tuning.train.worker import DONE
from deepwell.tuning.train.worker import main as run_worker

__all__ = [
    "CONFIG",
    "CompressConfig",
    "Convert",
    "MadeBy",
    "Prune",
    "Quantise",
    "check_compressible",
    "compress",
    "main",
]

CONFIG: Final = "config.json"
_OUT: Final = "made"  # folder of the result, in that of the run
_LEAST_CHANGE: Final = 0.005  # of a step's share, between two events

Recover = Literal["distil", "none"]
Say = Callable[[dict[str, Any]], None]
Told = Callable[[str, float], None]


class Prune(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="prune", tag_field="method"):
    """Options of pruning, as `training.run.prune` takes them."""

    share: float = 0.2
    ways: tuple[Way, ...] = WAYS
    recover: Recover = "distil"
    minutes: float = 10.0


class Convert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="convert", tag_field="method"):
    """Options of a conversion, as `training.conversion.convert` takes them."""

    to: Literal["mla", "moe", "deepseek-v3"] = "mla"
    cached: int | None = None
    sparsity: float = 0.25
    experts: int = EXPERTS
    recover: Recover = "distil"
    minutes: float = 20.0


class Quantise(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="quantise", tag_field="method"):
    """Options of a quantisation, as `training.quantise.quantise` takes them. `algorithm` is its method."""

    type: Literal["q4_0", "q4_1", "q4_k", "q8_0", "q3_k"] = "q4_1"
    algorithm: Literal["auto", "gptq", "awq", "none"] = "auto"


class MadeBy(msgspec.Struct, frozen=True):
    """The job that a result comes of, as its record keeps it.

    Attributes:
        owner: digest of the tenant, by which an erasure finds the result.
        files: ids of the files that were read.
    """

    job: str
    owner: str
    files: tuple[str, ...] = ()


class CompressConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A compression as its folder states it.

    Attributes:
        model: path of the donor.
        name: name of the result in the store.
        models_dir: folder of the store.
        text: file of calibration text; empty: the options need none.
        held_out: file of text that takes no part and on which both are measured; empty: none.
        threads: processor threads of the measurement; 0: all that the process may use.
    """

    model: str
    name: str
    models_dir: str
    made_by: MadeBy
    options: Prune | Convert | Quantise
    text: str = ""
    held_out: str = ""
    threads: int = 0


def check_compressible(config: ModelConfig, options: Prune | Convert | Quantise) -> None:
    """Checks by the shape of a donor that options can be met. Nothing is loaded.

    Raises:
        UnsupportedModel, InvalidRequest: they cannot.
    """
    if not isinstance(options, Convert):
        check_prunable(config)
        if isinstance(options, Prune):
            shapes_for(config, options.share, options.ways)
        return
    check_convertible(config)
    if options.to == "moe":
        check_exact(config)
    elif options.cached is not None:
        check_cached(config, options.cached)
    if options.to != "mla":
        layouts_for(config.intermediate_size, options.sparsity, experts=options.experts)


def compress(folder: Path, say: Say, _stop: Callable[[], bool] = lambda: False) -> int:
    """Compresses as the configuration of a folder says, tells events, and returns the exit status.

    Raises:
        DeepwellError: the result cannot be made.
    """
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=CompressConfig)
    except msgspec.MsgspecError as error:
        raise InvalidFile(
            f"{CONFIG} is no configuration of a compression: {error}", fix="start it anew"
        ) from None
    store = ModelStore(Path(config.models_dir))
    made = _record_in(store, config.name)
    if made is None or made.get("made_by", {}).get("job") != config.made_by.job:
        if config.name in store.names():
            raise InvalidRequest.of("compression_name", name=config.name, param="name")
        made = _made(config, folder / _OUT, _shares(say))
        store.pull(str(folder / _OUT), name=config.name)
    stored = store.get(config.name).manifest
    size = 0 if stored is None else stored.size_bytes
    donor = _bytes(Path(config.model))
    say({"event": "done", "model": config.name, "bytes": size, "base_bytes": donor, "record": made})
    return DONE


def _shares(say: Say) -> Told:
    """Returns the function that takes steps and their shares, and tells of those that have moved on."""
    last: tuple[str, float] = ("", 0.0)

    def told(step: str, done: float) -> None:
        nonlocal last
        if step != last[0] or done >= 1 or done - last[1] >= _LEAST_CHANGE:
            last = (step, done)
            say({"event": "progress", "step": step, "done": round(done, 3)})

    return told


def _made(config: CompressConfig, out: Path, told: Told) -> dict[str, Any]:
    """Makes the result in a folder, and returns its record, which lies in it."""
    for one in (out, *out.parent.glob(f".{out.name}*"), *out.parent.glob(f"{out.name}.*")):
        shutil.rmtree(one, ignore_errors=True)  # what an earlier start left
    held_out = pieces_of(_text(config.held_out)) if config.held_out else []
    before = _measured(config, config.model, held_out, "donor", told)
    card = dict(_compressed(config, out, told))
    after = _measured(config, str(out), held_out, "result", told)
    if before is not None and after is not None:
        change = difference(before, after)
        card["held_out"] = {**asdict(change), "precision": _precision(config)}
    record = {**card, "made_by": msgspec.to_builtins(config.made_by)}
    (out / RECORD).write_text(record_text(record), encoding="utf-8", errors="backslashreplace")
    return json.loads(json.dumps(record))


def _compressed(config: CompressConfig, out: Path, told: Told) -> Mapping[str, Any]:
    options = config.options
    texts = [_text(config.text)] if config.text else []
    if isinstance(options, Quantise):
        from deepwell.tuning.compress.training.quantise import quantise

        out.mkdir()
        card = quantise(
            config.model,
            out / f"{config.name}.gguf",
            kind=options.type,
            method=options.algorithm,
            texts=texts,
            say=lambda done: told("quantise", done),
        )
        return {**card, "method": "quantised", "algorithm": card["method"]}
    from deepwell.tuning.compress.training.recover import Recovery

    recovery = Recovery(options.minutes) if options.recover == "distil" else None
    if isinstance(options, Prune):
        from deepwell.tuning.compress.training.run import prune

        return prune(
            config.model, out, options.share, texts=texts, ways=options.ways, recovery=recovery, say=told
        )
    from deepwell.tuning.compress.training.conversion import convert

    return convert(
        config.model,
        out,
        options.to,
        texts=texts,
        cached=options.cached,
        sparsity=options.sparsity,
        experts=options.experts,
        recovery=recovery,
        say=told,
    )


def _measured(
    config: CompressConfig, model: str, pieces: Sequence[str], step: str, told: Told
) -> Measure | None:
    """Returns the loss of a model, as the engine serves it, on pieces of held-out text; None: there are none."""
    if not pieces:
        return None
    done = 0

    def counted(count: int) -> None:
        nonlocal done
        done += count
        told(f"held-out: {step}", done / len(pieces))

    options: Any = {"precision": _precision(config)}
    options |= {"threads": config.threads} if config.threads else {}
    with open_subjects([SubjectName(step, model)], options) as (subject,):
        scores = Scorer(subject).texts(pieces, counted)
    keys = [str(number) for number in range(len(pieces))]
    return next(one for one in text_measures(scores, keys) if one.name == "loss")


def _precision(config: CompressConfig) -> str:
    """Returns the precision at which donor and result are compared: a file of 4 bits is served as it is."""
    return "auto" if isinstance(config.options, Quantise) else "int8"


def _text(path: str) -> str:
    try:
        return io.StringIO(Path(path).read_bytes().decode("utf-8"), newline=None).read()
    except UnicodeDecodeError:
        raise InvalidRequest.of("compress_text_form", param="text_file", path=Path(path).name) from None


def _record_in(store: ModelStore, name: str) -> dict[str, Any] | None:
    """Returns the record of a model of the store; None: there is no such model, or it has none."""
    path = store.root / name / RECORD
    if name not in store.names() or not path.is_file():
        return None
    found: Any = json.loads(path.read_bytes())
    return found if isinstance(found, dict) else None


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.gguf")]
    return sum(one.stat().st_size for one in files)


def main(arguments: list[str]) -> int:
    """Makes the result of a folder's configuration, and returns the exit status."""
    return run_worker(arguments, compress)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
