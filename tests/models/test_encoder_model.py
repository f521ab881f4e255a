"""BERT as a model directory: configuration, pooling, tensors, WordPiece; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.engine import sequences
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config_reader import config_from_directory
from deepwell.models.text.tokenizer import Tokenizer

MODULES = [
    {"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")
]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##ed", "cafe", "北", "京", "."]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    sequences.golden_checkpoint("bert", tmp_path)
    return tmp_path


def change(directory: Path, **values: Any) -> Path:
    config = json.loads((directory / "config.json").read_text()) | values
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def pool(directory: Path, **modes: object) -> Path:
    (directory / "modules.json").write_text(json.dumps(MODULES))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 72, **modes})
    )
    return directory


def test_the_configuration_is_read(bert: Path) -> None:
    config = config_from_directory(bert)
    assert (config.architecture, config.is_encoder, config.pooling) == ("bert", True, "mean")
    assert (config.hidden_size, config.num_attention_heads, config.head_dim) == (72, 3, 24)
    assert (config.layer_norm_eps, config.type_vocab_size, config.max_position_embeddings) == (1e-12, 2, 48)


def test_pooling_is_what_sentence_transformers_wrote(bert: Path) -> None:
    assert config_from_directory(pool(bert, pooling_mode_mean_tokens=True)).pooling == "mean"
    first = pool(bert, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    assert config_from_directory(first).pooling == "cls"


@pytest.mark.parametrize(
    "modes",
    [
        {},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
    ],
)
def test_other_poolings_are_refused(bert: Path, modes: dict[str, bool]) -> None:
    with pytest.raises(UnsupportedModel, match="pooling"):
        config_from_directory(pool(bert, **modes))


@pytest.mark.parametrize(
    "text", ["{}", "[", "[1]", '[{"type": 3}]', '[{"type": "x.Dense"}]', "[" * 100_000, json.dumps(MODULES)]
)
def test_unsound_modules_are_refused(bert: Path, text: str) -> None:
    (bert / "modules.json").write_text(text)
    with pytest.raises((InvalidModelFile, UnsupportedModel)):
        config_from_directory(bert)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"hidden_act": "relu"}, UnsupportedModel),
        ({"hidden_act": "gelu_new"}, UnsupportedModel),
        ({"position_embedding_type": "relative_key"}, UnsupportedModel),
        ({"is_decoder": True}, UnsupportedModel),
        ({"num_attention_heads": 5}, InvalidModelFile),
        ({"num_attention_heads": 0}, InvalidModelFile),
        ({"layer_norm_eps": 0}, InvalidModelFile),
        ({"layer_norm_eps": "small"}, InvalidModelFile),
        ({"type_vocab_size": 0}, InvalidModelFile),
        ({"num_hidden_layers": 10**9}, InvalidModelFile),
        ({"max_position_embeddings": -1}, InvalidModelFile),
        ({"vocab_size": 201}, InvalidModelFile),
        ({"max_position_embeddings": 512}, InvalidModelFile),
    ],
)
def test_what_would_go_wrong_is_refused(bert: Path, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        open_checkpoint(change(bert, **values))


def test_the_pooler_is_left_out_and_strange_tensors_are_refused(bert: Path) -> None:
    tensors = load_file(bert / "model.safetensors")
    extra = {
        "pooler.dense.weight": np.zeros((72, 72), np.float32),
        "pooler.dense.bias": np.zeros(72, np.float32),
    }
    extra["embeddings.position_ids"] = np.arange(48)[None]
    save_file(tensors | extra, bert / "model.safetensors")
    checkpoint = open_checkpoint(bert)
    assert not any("pooler" in name or "position_ids" in name for name in checkpoint.names)
    assert checkpoint.source_bits == 16
    save_file(tensors | {"cls.predictions.bias": np.zeros(200, np.float32)}, bert / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"cls\.predictions"):
        open_checkpoint(bert)


def word_piece(directory: Path, *, framed: bool = True) -> Path:
    backend = Backend(models.WordPiece({token: i for i, token in enumerate(VOCAB)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(VOCAB[:4])
    if framed:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    backend.save(str(directory / "tokenizer.json"))
    return directory


def test_word_pieces_keep_their_frame_and_are_neither_cut_nor_padded(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(word_piece(tmp_path))
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((2,), (3,))
    assert tokenizer.encode("Playing PLAYED Café 北京.") == [4, 5, 4, 6, 7, 8, 9, 10]
    assert tokenizer.encode("unknown [SEP]") == [1, 3]
    assert 3 not in tokenizer.encode("unknown [SEP]", allow_special=False)
    assert tokenizer.decode([2, 4, 5, 7, 3]) == "playing cafe"


def test_without_a_post_processor_there_is_no_frame(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(word_piece(tmp_path, framed=False))
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((), ())


@pytest.fixture
def xlm_roberta(tmp_path: Path) -> Path:
    sequences.golden_checkpoint("xlm-roberta", tmp_path)
    return tmp_path


def test_positions_of_xlm_roberta_begin_behind_the_padding_token(xlm_roberta: Path) -> None:
    config = config_from_directory(xlm_roberta)
    assert (config.architecture, config.is_encoder, config.pooling) == ("xlm-roberta", True, "mean")
    assert (config.max_position_embeddings, config.position_offset, config.type_vocab_size) == (48, 2, 1)
    assert config.layer_norm_eps == 1e-5
    assert open_checkpoint(xlm_roberta).tensor("embeddings.position_embeddings.weight").shape == (50, 72)
    other = config_from_directory(change(xlm_roberta, pad_token_id=None))
    assert other == config, "transformers' default"


@pytest.mark.parametrize(
    "values",
    [{"pad_token_id": 49}, {"pad_token_id": 500}, {"max_position_embeddings": 2}, {"type_vocab_size": 0}],
)
def test_an_xlm_roberta_without_positions_is_refused(xlm_roberta: Path, values: dict[str, int]) -> None:
    with pytest.raises(InvalidModelFile):
        config_from_directory(change(xlm_roberta, **values))
