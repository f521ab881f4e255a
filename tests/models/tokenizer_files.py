"""Small real tokenizer files: a byte-level BPE as GGUF and as `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = ("<think>", "</think>")
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "ä ½", "ä½ ł", "< |", "< t")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words() -> list[str]:
    return [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def write_gguf(
    path: Path,
    *,
    pre: str | None = "qwen2",
    model: str = "gpt2",
    tokens: Sequence[str] | None = None,
    kinds: Sequence[int] | None = None,
    merges: Sequence[str] = MERGES,
    eos: int = 2,
) -> Path:
    """A GGUF file with a vocabulary and no tensors; ids 0.. are CONTROL, then USER_DEFINED, then `words`."""
    if tokens is None:
        tokens = [*CONTROL, *USER_DEFINED, *words()]
        kinds = [3] * len(CONTROL) + [4] * len(USER_DEFINED) + [1] * len(words())
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(np.asarray(kinds if kinds is not None else [1] * len(tokens)).tolist()))
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_directory(path: Path, *, config: dict | None = None, generation: dict | None = None) -> Path:
    """A directory with `tokenizer.json`; words first, added tokens behind them as Qwen has it."""
    vocab = {word: i for i, word in enumerate(words())}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m.split(" ")) for m in MERGES]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in USER_DEFINED])
    path.mkdir(parents=True, exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    default = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": {"content": "<|im_end|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(default | (config or {})))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path
