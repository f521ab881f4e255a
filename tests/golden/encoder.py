"""Write the encoders' golden files: what transformers computes, in float32, on tiny random models and on all-MiniLM-L6-v2.

Run by `make golden`; needs the `[tune]` extra. `bert.npz` and `xlm-roberta.npz` hold a `config.json`, float16 weights, tokens
and hidden states; `minilm.npz` the vectors of the texts in `minilm.json`, which holds their tokens too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from deepwell_bench.harness import assets

HERE = Path(__file__).parent
TOKENS = (40, 1, 17)  # of the sequences of the tiny model

# No size is a multiple of a panel or a group: the padding counts.
_SIZES: dict[str, int] = {
    "vocab_size": 200,
    "hidden_size": 72,
    "intermediate_size": 152,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
TINY = BertConfig(**_SIZES, max_position_embeddings=48, type_vocab_size=2, layer_norm_eps=1e-12)
# Two rows of the table belong to positions up to the padding token's, so that both models read 48 tokens.
TINY_XLM_R = XLMRobertaConfig(
    **_SIZES, max_position_embeddings=50, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1
)
TINY_MODELS: dict[str, Any] = {"bert": (BertModel, TINY), "xlm-roberta": (XLMRobertaModel, TINY_XLM_R)}

TEXTS = (
    "How do I reset my password?",
    "Changing a forgotten passphrase",
    "The cat sat on the mat.",
    "A kitten is resting on a rug.",
    "Stock markets fell sharply on Tuesday after the central bank raised interest rates.",
    "Crème brûlée, naïve façade, Ångström and São Paulo",
    "ÉCOLE École école",
    "北京是中国的首都。",
    "你好，世界! mixed with English words",
    "東京タワー and 서울",
    "Привет, мир",
    "x",
    "",
    "   leading and trailing spaces   ",
    "tabs\tand\nnewlines\r\n",
    "e-mail: someone@example.com, https://example.com/a?b=c#d",
    "1,234.56 + 7e-3 = ?",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "😀 emoji 🚀 are unknown words",
    "[CLS] written out, and [SEP] and [MASK]",
    "zero\u200bwidth and soft\u00adhyphen",
    "İstanbul ΑΒΓ ß",
    "a" * 120,
    "The boundary layer in simple shear flow past a flat plate is studied. " * 12,
)


def tiny_model(name: str = "bert") -> Any:
    """An encoder whose weights are multiples of 1/128: exact in float16, and they compress."""
    torch.manual_seed(0)
    kind, config = TINY_MODELS[name]
    model = kind(config, add_pooling_layer=False).eval().to(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randint(-31, 32, parameter.shape) / 128
            parameter.copy_(1 + values if name.endswith("LayerNorm.weight") else values)
    return model


def tiny_tokens(name: str = "bert") -> list[torch.Tensor]:
    """Random token ids of each sequence. None is XLM-RoBERTa's padding token, which would have a position of its own."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(0, TINY.vocab_size, (count,), generator=generator) for count in TOKENS]
    return [torch.where(one == TINY_XLM_R.pad_token_id, 7, one) for one in drawn] if name != "bert" else drawn


def hidden_states(model: Any, tokens: torch.Tensor) -> np.ndarray:
    """Float32 hidden states after the last layer, [tokens, hidden]."""
    with torch.no_grad():
        return model(tokens[None]).last_hidden_state[0].numpy()


def embedding(model: Any, tokens: list[int]) -> np.ndarray:
    """The mean of the hidden states at unit length, as sentence-transformers has it."""
    mean = hidden_states(model, torch.tensor(tokens)).mean(axis=0)
    return mean / np.linalg.norm(mean)


def write_tiny(name: str) -> None:
    model, tokens = tiny_model(name), tiny_tokens(name)
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    weights = {
        f"weight:{name}": value.to(torch.float16).numpy() for name, value in model.state_dict().items()
    }
    np.savez_compressed(
        HERE / f"{name}.npz",
        config=np.array(json.dumps(config, default=str)),
        tokens=torch.cat(tokens).numpy().astype(np.int32),
        seq_starts=np.cumsum([0, *TOKENS]).astype(np.int32),
        hidden=np.concatenate([hidden_states(model, sequence) for sequence in tokens]),
        **{name: value for name, value in weights.items() if "position_ids" not in name},
    )


def write_minilm(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = BertModel.from_pretrained(directory).eval().to(torch.float32)
    tokens = [tokenizer(text)["input_ids"] for text in TEXTS]
    rows = [json.dumps({"text": text, "tokens": ids}) for text, ids in zip(TEXTS, tokens, strict=True)]
    (HERE / "minilm.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")
    np.savez_compressed(HERE / "minilm.npz", vectors=np.stack([embedding(model, ids) for ids in tokens]))


if __name__ == "__main__":
    for name in TINY_MODELS:
        write_tiny(name)
    write_minilm(assets.minilm())
