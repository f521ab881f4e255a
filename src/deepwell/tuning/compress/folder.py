"""Writes a compressed model as a folder: weights, tokenizer, record, and a model card. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.models.formats.checkpoint import Checkpoint, StoredTensor
from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.export import export_safetensors
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.sound import in_command, in_front_matter, in_markdown
from deepwell.tuning.compress.target import check_target
from deepwell.tuning.train.artefact import RECORD, record_text

__all__ = ["model_card", "write_folder"]


def write_folder(
    target: Path,
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    read_me: str,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes weights of a configuration in float32, with the tokenizer, `deepwell.json` and `README.md`.

    The folder gets its name when all of them are there.

    Raises:
        InvalidRequest: the folder is not empty, or its disk has no room.
    """
    check_target(target, 4 * sum(values.size for values in weights.values()))
    tensors = {name: _stored(name, values) for name, values in weights.items()}
    made = Checkpoint(config, "gguf", tensors, {}, None, ())
    beside = {RECORD: record_text(card), "README.md": read_me}
    export_safetensors(made, target, "float32", tokenizer=tokenizer, progress=progress, beside=beside)


def _stored(name: str, values: NDArray[np.float32]) -> StoredTensor:
    values = np.ascontiguousarray(values, np.float32)
    rows = values.shape[0] if values.ndim > 1 else 1
    return StoredTensor(name, values.shape, "F32", values.view(np.uint8).reshape(rows, -1))


def model_card(card: Mapping[str, Any], title: str, made: str, *, judged_on: str, loads: str) -> str:
    """Returns the text of `README.md`: what was made of which model, what it loses, and how it is run.

    Args:
        card: record of the model. Its names are strangers', and stay names in the text.
        title: heading, as Markdown.
        made: sentences on what was made, as Markdown.
        judged_on: text on which both losses were measured.
        loads: sentence on the programs that load the folder.
    """
    licence = card.get("license") or ""
    head = f"license: {in_front_matter(licence.lower())}\n" if licence else ""
    base, donor = in_front_matter(card["base"]), in_command(card["base"], "DONOR")
    calibration = card["calibration"]
    return (
        f"---\nbase_model: {base}\n{head}library_name: transformers\n---\n\n# {title}\n\n{made}\n"
        f"Calibration text: {calibration['tokens']:,} tokens, SHA-256 {calibration['sha256']}.\n"
        f"Recovery: {_recovery(card['recovery'])}.\n\n"
        f"Loss on {judged_on}, before and after: {card['loss_before']:.3f}, {card['loss']:.3f}.\n"
        "Measure it on your own held-out text before you serve it:"
        f" `deepwell evaluate ./FOLDER --against {donor} --text held-out.txt --precision int8`.\n\n"
        f"{loads} Serve it: `deepwell serve ./FOLDER`, or bring it into the store under a name:"
        " `deepwell pull ./FOLDER --name NAME`.\n\n"
        f"{_licence(licence)} `deepwell.json` has every figure, the hashes of the donor, and the versions of the libraries.\n"
    )


def _recovery(made: Mapping[str, Any]) -> str:
    if made.get("method") != "distil":
        return "none"
    return (
        f"distilled from the donor for {made['minutes']:g} minutes, on {made['tokens_seen']:,} tokens,"
        f" from a loss of {made['loss_before']:.3f} (seed {made['seed']}, learning rate {made['rate']:g},"
        f" {made['batch']} windows a step)"
    )


def _licence(licence: str) -> str:
    if licence:
        return f"The license of the donor goes on: {in_markdown(licence)}."
    return "The license of the donor goes on; its files do not name it."
