"""`deepwell models`: what is in the store and in the catalog."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli import model_aliases, synth
from deepwell.cli.options import ModelsDir, stored_models
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.rollout import registry
from deepwell.cli.updates import verbs as updates
from deepwell.cli.usage import Verbs
from deepwell.messages import say
from deepwell.paths import user_path

if TYPE_CHECKING:
    from deepwell.models.store.catalog import CatalogEntry, Pin
    from deepwell.models.store.manifest import Manifest
    from deepwell.models.store.store import ModelStore, StoredModel
    from deepwell.settings import Settings

__all__ = ["list_models", "register", "remove", "show"]

Name = Annotated[
    str, typer.Argument(help="Name of a model in the store.", metavar="NAME", autocompletion=stored_models)
]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    models = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="List, show, remove, export, synthesise and verify models, look for new revisions of them, "
        "give them further names, and keep their versions.",
    )
    models.command("list")(list_models)
    models.command()(show)
    models.command()(remove)
    models.command()(export)
    updates.register(models)
    synth.register(models)
    model_aliases.register(models)
    registry.register(models)
    app.add_typer(models, name="models")


_PIN_WORDS: dict[Pin, str] = {
    "sha256": "sha256: every file is as the shipped catalog says",
    "revision": "revision: the Hugging Face commit is the catalog's, the hub said which files belong to it",
    "none": "none: nothing but its source vouches for it",
}


def _pin_of(manifest: Manifest) -> Pin:
    """Returns the strength of the pin that a stored model was accepted by, as far as its manifest shows."""
    from deepwell.models.store.catalog import shipped_catalog, vouching_entry

    if vouching_entry(manifest) is not None:
        return "sha256"
    listed = shipped_catalog().get(manifest.name)
    commit = manifest.revision and f"@{manifest.revision}"
    is_pinned = listed and commit and manifest.source in listed.sources and commit in manifest.source
    return "revision" if is_pinned else "none"


def _store(models_dir: Path | None) -> ModelStore:
    from deepwell.models.store.store import ModelStore

    return ModelStore(_settings(models_dir).models_dir)


def _settings(models_dir: Path | None) -> Settings:
    """Returns the settings, whose model store is a directory or does not exist yet.

    Raises:
        InvalidRequest: it is a file, or lies below one.
    """
    from deepwell.errors import InvalidRequest
    from deepwell.settings import Settings

    settings = Settings.load(models_dir=models_dir)
    found = next(path for path in (settings.models_dir, *settings.models_dir.parents) if path.exists())
    if not found.is_dir():
        raise InvalidRequest.of("path_not_directory", path=found)
    return settings


def list_models(models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """List the models in the store, and those of the catalog that can be pulled."""
    with reported_errors(as_json=json):
        from deepwell.models.store.catalog import shipped_catalog
        from deepwell.models.store.store import ModelStore

        settings = _settings(models_dir)
        stored = [model for model in _readable(ModelStore(settings.models_dir)) if model.manifest]
        names = {model.name for model in stored}
        others = [entry for entry in shipped_catalog().values() if entry.name not in names]
        packed = {model.name: _packed_files(model, settings.packed_folder) for model in stored}
        packed_bytes = {name: sum(path.stat().st_size for path in files) for name, files in packed.items()}
        if json:
            described = [
                model.manifest.to_json()
                | {
                    "size_bytes": model.manifest.size_bytes,
                    "packed_bytes": packed_bytes[model.name],
                    "pin": _pin_of(model.manifest),
                }
                for model in stored
                if model.manifest
            ]
            catalog = [
                {"name": e.name, "summary": e.summary, "licence": e.licence, "pin": e.pin} for e in others
            ]
            write_json({"models": described, "catalog": catalog})
            return
        _print_stored(stored, packed_bytes)
        if others:
            _print_catalog(others)


def _readable(store: ModelStore) -> list[StoredModel]:
    """Returns the models of the store, and says which cannot be read: one damaged model hides no other."""
    from deepwell.errors import InvalidModelFile

    found: list[StoredModel] = []
    for name in store.names():
        try:
            found.append(store.get(name))
        except InvalidModelFile as error:
            console(stderr=True).print(f"{name}: {error}", soft_wrap=True, markup=False)
    return found


def _print_stored(stored: Sequence[StoredModel], packed_bytes: Mapping[str, int]) -> None:
    out = console()
    if not stored:
        out.print(say("models_none"), soft_wrap=True)
        return
    rows = [
        (
            model.name,
            _megabytes(manifest.size_bytes),
            _megabytes(packed_bytes[model.name]),
            manifest.licence or say("not_stated"),
            _pin_of(manifest),
            manifest.architecture,
        )
        for model in stored
        if (manifest := model.manifest)
    ]
    columns = say("models_columns").split("|")
    out.print(say("models_here"), soft_wrap=True)
    print_table(columns, rows, folded=columns[3:], optional=columns[4:5])


def _print_catalog(entries: Sequence[CatalogEntry]) -> None:
    out = console()
    columns = say("catalog_columns").split("|")
    out.print(f"\n{say('models_in_catalog')}", soft_wrap=True)
    rows = [(one.name, one.licence, one.pin, one.summary) for one in entries]
    print_table(columns, rows, folded=columns[1:], optional=columns[2:3])
    out.print(f"\n{say('models_to_pull')}", soft_wrap=True)


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.0f} MB" if nbytes else "-"


def _packed_files(model: StoredModel, packed_dir: Path) -> list[Path]:
    """Returns the packed weights of a model; none if the model cannot be opened."""
    from deepwell.engine.weights.load import packed_files
    from deepwell.errors import DeepwellError
    from deepwell.models.formats.checkpoint import open_checkpoint

    if not packed_dir.is_dir():
        return []
    try:
        return packed_files(open_checkpoint(model.path), packed_dir)
    except DeepwellError:  # a model that cannot be opened was never packed
        return []


def show(name: Name, models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """Show where a model came from: source, hashes, licence, architecture, chat template."""
    with reported_errors(as_json=json):
        store = _store(models_dir)
        _check_name(store, name)
        stored = store.get(name)
        manifest = stored.manifest
        assert manifest is not None
        if json:
            facts = manifest.to_json() | {"size_bytes": manifest.size_bytes, "pin": _pin_of(manifest)}
            made_from = {"made_from": made} if (made := _made_from(stored)) else {}
            write_json({"path": str(stored.path), **facts, **made_from, **_embedding_facts(stored)})
            return
        rows = {
            "path": str(stored.path),
            "source": manifest.source,
            "revision": manifest.revision or "-",
            "pinned by": _PIN_WORDS[_pin_of(manifest)],
            "licence": manifest.licence or "not stated",
            "architecture": manifest.architecture,
            "chat template": f"sha256 {manifest.template_hash}" if manifest.template_hash else "none",
            "pulled": manifest.created,
        }
        if made := _made_from(stored):
            rows["made from"] = f"{made['base']}, {made['method']}"
        if facts := _embedding_facts(stored).get("embedding"):
            rows["embedding"] = (
                f"{facts['dimension']} dimensions, {facts['pooling']} pooling, {facts['max_tokens']} tokens"
            )
            rows |= {f"{name} prompt": repr(text) for name, text in facts["prompts"].items()}
        out = console()
        for key, value in rows.items():
            out.print(f"{key:14} {value}", soft_wrap=True)
        for file in manifest.files:
            out.print(
                f"{'file':14} {file.name}  {file.size_bytes} bytes  sha256 {file.sha256}", soft_wrap=True
            )


def _check_name(store: ModelStore, name: str) -> None:
    """Refuses the path of a model where a name is wanted.

    Raises:
        ModelNotFound: it is a path.
    """
    from deepwell.errors import ModelNotFound

    if not store.can_hold(name) and user_path(name).exists():
        raise ModelNotFound.of("model_name_wanted", path=name)


def _made_from(stored: StoredModel) -> dict[str, str]:
    """Returns the model that this one was made of, and how, by its record; empty for a model that has none."""
    import json

    from deepwell.models.formats.gguf import read_gguf_header
    from deepwell.models.formats.safetensors import read_json
    from deepwell.tuning.train.artefact import RECORD

    if stored.path.suffix == ".gguf":
        kept = read_gguf_header(stored.path).metadata.get("deepwell.quantised")
        try:
            record: Any = json.loads(kept) if isinstance(kept, str) else None
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and "type" in record:
            record = {"base": record.get("base"), "method": f"quantised to {record['type']}"}
    else:
        path = stored.path / RECORD
        record = read_json(path) if path.is_file() else None
    if not isinstance(record, dict):
        return {}
    return {name: str(record.get(name, "unknown"))[:120] for name in ("base", "method")}


def _embedding_facts(stored: StoredModel) -> dict[str, Any]:
    """Returns what to know about the vectors of an embedding model, under "embedding"; empty for others."""
    from deepwell.errors import DeepwellError
    from deepwell.models.formats.checkpoint import open_checkpoint
    from deepwell.models.store.catalog import prompts_of

    try:
        config = open_checkpoint(stored.path).config
    except DeepwellError:  # what cannot be opened is shown without them
        return {}
    if not config.is_encoder:
        return {}
    facts = {
        "dimension": config.hidden_size,
        "pooling": config.pooling,
        "max_tokens": config.max_position_embeddings,
        "prompts": dict(prompts_of(stored.path)),
    }
    return {"embedding": facts}


def remove(
    names: Annotated[
        list[str],
        typer.Argument(help="Names of models in the store.", metavar="NAME...", autocompletion=stored_models),
    ],
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Delete models from the store, and the weights that were packed from them."""
    with reported_errors(as_json=json):
        from deepwell.models.store.store import ModelStore

        settings = _settings(models_dir)
        store = ModelStore(settings.models_dir)
        for name in names:
            _check_name(store, name)
            stored = {model.name: model for model in _readable(store)}
            packed: set[Path] = set()
            freed = 0
            if name in stored:
                model = stored.pop(name)
                freed = model.manifest.size_bytes if model.manifest else 0
                packed.update(_packed_files(model, settings.packed_folder))
            store.remove(name)
            for other in stored.values() if packed else ():  # the same weights under another name
                packed.difference_update(_packed_files(other, settings.packed_folder))
            for path in packed:
                with suppress(FileNotFoundError):
                    freed += path.stat().st_size
                    path.unlink()
            if json:
                write_json({"removed": name, "freed_bytes": freed})
            else:
                console().print(say("model_removed", name=name, size=_megabytes(freed)), soft_wrap=True)


def export(
    name: Annotated[
        str, typer.Argument(help="Model to export: a name in the store, or a path.", metavar="MODEL")
    ],
    output: Annotated[Path, typer.Argument(help="Directory to write.", metavar="DIRECTORY")],
    to: Annotated[str, typer.Option(help="Format of the files: safetensors.")] = "safetensors",
    dtype: Annotated[
        str, typer.Option(help="Data type of the weights: float32, bfloat16 or float16.")
    ] = "bfloat16",
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Export a model as a directory that transformers loads."""
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidRequest
        from deepwell.models.formats.checkpoint import open_checkpoint
        from deepwell.models.store.export import export_safetensors
        from deepwell.models.text.tokenizer import Tokenizer

        if to != "safetensors":
            raise InvalidRequest.of("export_format", format=to)
        if dtype not in ("float32", "bfloat16", "float16"):
            raise InvalidRequest.of("export_dtype", dtype=dtype)
        stored = _store(models_dir).resolve(name)
        checkpoint = open_checkpoint(stored.path)
        tokenizer = Tokenizer.load(stored.path)
        values = sum(math.prod(checkpoint.tensor(tensor).shape) for tensor in checkpoint.names)
        with _bar(values * (4 if dtype == "float32" else 2), shown=not json) as progress:
            export_safetensors(checkpoint, output, dtype, tokenizer=tokenizer, progress=progress)
        if json:
            write_json({"model": stored.name, "directory": str(output), "format": to, "dtype": dtype})
        else:
            console().print(f"wrote {stored.name} as {dtype} safetensors to {output}", soft_wrap=True)


@contextmanager
def _bar(total_bytes: int, *, shown: bool) -> Generator[Callable[[int], None] | None]:
    """A bar for the bytes written, on a terminal."""
    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("exporting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total_bytes)
        yield lambda nbytes: bar.advance(task, nbytes)
