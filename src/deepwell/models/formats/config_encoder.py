"""Reads the hyperparameters of encoders: BERT's and XLM-RoBERTa's `config.json`, and the header of E5S1 files."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, Final, Literal, cast

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.config import Architecture, ModelConfig
from deepwell.models.formats.config_fields import SUPPORTED, Fields
from deepwell.models.formats.e5 import E5Header
from deepwell.models.formats.safetensors import read_json
from deepwell.models.store.fetched import POOLING_FILE

__all__ = ["ENCODERS", "check_encoder", "e5_encoder", "json_encoder"]

ENCODERS: Final[dict[str, Architecture]] = {"BertModel": "bert", "XLMRobertaModel": "xlm-roberta"}
_XLM_R_PAD: Final = 1  # of transformers, if config.json names none
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_MAX_MODULES_BYTES: Final = 1 << 16


def json_encoder(fields: Fields, architecture: Architecture, directory: Path) -> ModelConfig:
    """Reads an encoder's `config.json`, and the pooling that sentence-transformers stores next to it.

    XLM-RoBERTa's positions begin behind the padding token's id, so a table of 514 rows serves texts of 512 tokens.

    Raises:
        UnsupportedModel: a feature that Deepwell does not run.
        InvalidModelFile: missing or absurd values. `check_encoder` and the bounds of every model are left to the caller.
    """
    for key, expected in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if (value := fields.text(key)) not in (None, expected):
            raise UnsupportedModel(
                f"config.json: {key} is {reprlib.repr(value)}", fix=f"only {expected} is supported"
            )
    if fields.boolean("is_decoder", False) or fields.boolean("add_cross_attention", False):
        raise UnsupportedModel("config.json: it is a decoder made of BERT layers", fix=SUPPORTED)
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if heads < 1 or hidden % heads:
        raise fields.error(f"{heads} attention heads do not divide a hidden size of {hidden}")
    pad = next(iter(fields.token_ids("pad_token_id")), None)
    if architecture == "xlm-roberta" and pad is None:
        pad = _XLM_R_PAD
    unused = 0 if architecture == "bert" or pad is None else pad + 1
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=fields.integer("max_position_embeddings") - unused,
        attention_bias=True,
        pad_token_id=pad,
        layer_norm_eps=fields.number("layer_norm_eps", 1e-12),
        type_vocab_size=fields.integer("type_vocab_size", 2),
        pooling=_pooling(directory),
    )


def e5_encoder(header: E5Header, where: str) -> ModelConfig:
    """Returns the configuration that the header of an E5S1 file gives: BERT with mean pooling, as multilingual E5 small is.

    Raises:
        InvalidModelFile: the heads do not divide the hidden size. The bounds of every model are left to the caller.
    """
    hidden, heads = header.hidden_size, header.num_heads
    if hidden % heads:
        raise InvalidModelFile(f"{where}: {heads} attention heads do not divide a hidden size of {hidden}")
    return ModelConfig(
        architecture="bert",
        vocab_size=header.vocab_size,
        hidden_size=hidden,
        intermediate_size=header.intermediate_size,
        num_hidden_layers=header.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=header.max_positions,
        attention_bias=True,
        pad_token_id=header.pad,
        layer_norm_eps=header.layer_norm_eps,
        type_vocab_size=header.type_vocab_size,
    )


def check_encoder(config: ModelConfig, fields: Fields) -> None:
    """Checks the values that only encoders have.

    Raises:
        InvalidModelFile: one is absurd.
    """
    if not 0.0 < config.layer_norm_eps < 1.0:
        raise fields.error(f"layer_norm_eps is {config.layer_norm_eps}")
    if not 1 <= config.type_vocab_size <= 1024:
        raise fields.error(f"type_vocab_size is {config.type_vocab_size}, expected 1 to 1024")


def _modules(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _MAX_MODULES_BYTES:
            raise InvalidModelFile(f"modules.json has more than {_MAX_MODULES_BYTES} bytes")
        value: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"modules.json does not parse: {error}") from error
    if not isinstance(value, list):
        raise InvalidModelFile("modules.json is not a list")
    return cast("list[Any]", value)


def _pooling(directory: Path) -> Literal["mean", "cls"]:
    """Returns how the hidden states become one vector: the mean without `modules.json`, as in sentence-transformers.

    Vectors are scaled to unit length whether or not the model lists a Normalize module, which leaves a cosine the same.
    """
    if not (directory / "modules.json").is_file():
        return "mean"
    for module in _modules(directory / "modules.json"):
        kind = str(cast("dict[str, Any]", module).get("type")) if isinstance(module, dict) else ""
        if kind.rpartition(".")[2] not in _MODULES:
            raise UnsupportedModel(
                f"modules.json: the module {reprlib.repr(kind)}",
                fix=f"only {', '.join(_MODULES)} are supported",
            )
    path = directory / POOLING_FILE
    if not path.is_file():
        raise InvalidModelFile(
            f"{directory} holds modules.json and no {POOLING_FILE}", fix="pull the model again"
        )
    fields = Fields(read_json(path), POOLING_FILE)
    modes = [key for key in fields.values if key.startswith("pooling_mode_") and fields.boolean(key, False)]
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    raise UnsupportedModel(
        f"{POOLING_FILE}: pooling by {reprlib.repr(modes)}", fix="the mean, or the first token, is supported"
    )
