"""A tiny random model with a chat template, and conversations that it can learn by heart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.models.tokenizer_files import TEMPLATE, write_directory
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama with random weights, whose end token is its padding token too."""
    folder = write_directory(tmp_path_factory.mktemp("tiny") / "tiny", config={"chat_template": TEMPLATE})
    vocab = json.loads((folder / "tokenizer.json").read_text())
    size = len(vocab["model"]["vocab"]) + len(vocab["added_tokens"])
    end = next(one["id"] for one in vocab["added_tokens"] if one["content"] == "<|im_end|>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, eos_token_id=end, **SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)
    model.save_pretrained(folder)
    return folder


def conversations(count: int, start: int = 0) -> list[dict[str, object]]:
    """Distinct questions whose answers repeat them, of different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{'hello ' * (number % 5)}{number}?"},
                {"role": "assistant", "content": f"hello {number * 7 % 100}"},
            ]
        }
        for number in range(start, start + count)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in conversations(16)))
    return path
