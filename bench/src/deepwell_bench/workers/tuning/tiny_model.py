"""A tiny Llama in float32 that is trained here: no full-precision model can be had offline.

It learns the pool of BBC News alone, with a byte-level BPE of its own; a recipe is trained once and kept in the cache. It is
small enough to learn something within minutes: rounding costs a model that has learned little nothing that can be measured.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from deepwell.tuning.train.loop import processor_is_fast_at_bf16
from deepwell_bench.harness.assets import bench_cache

__all__ = ["TinyRecipe", "tiny_model"]

_END: Final = "<|endoftext|>"
_SIZES: Final = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class TinyRecipe:
    """Settings of a training.

    Attributes:
        tokens: number that it sees; the text repeats.
        batch: windows of 256 tokens in a step.
        rate: learning rate at its highest; a twentieth of the steps warms up, and it falls as a cosine.
    """

    tokens: int = 2_000_000
    vocabulary: int = 2048
    window: int = 256
    batch: int = 8
    rate: float = 4e-3
    seed: int = 0


def tiny_model(
    texts: Sequence[str], recipe: TinyRecipe, progress: Callable[[int, float], None] = lambda step, loss: None
) -> Path:
    """Returns the folder of the model of a recipe and texts, trained by the first call: some minutes on two cores.

    Args:
        texts: documents to learn; none of those that are measured.
        progress: takes the number of a step and its loss.
    """
    digest = sha256(json.dumps([asdict(recipe), _SIZES, list(texts)], sort_keys=True).encode()).hexdigest()
    kept = bench_cache() / "tuning" / f"tiny-{digest[:16]}"
    if kept.exists():
        return kept
    kept.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        _train(texts, recipe, folder, progress)
        shutil.move(folder, kept)
    return kept


def _train(
    texts: Sequence[str], recipe: TinyRecipe, folder: Path, progress: Callable[[int, float], None]
) -> None:
    backend = _tokenizer(texts, recipe.vocabulary)
    end = backend.token_to_id(_END)
    ids = [token for text in texts for token in (*backend.encode(text).ids, end)]
    windows = torch.tensor(ids[: len(ids) // recipe.window * recipe.window]).view(-1, recipe.window)
    torch.manual_seed(recipe.seed)
    config = transformers.LlamaConfig(
        vocab_size=recipe.vocabulary, bos_token_id=end, eos_token_id=end, pad_token_id=end, **_SIZES
    )
    model: Any = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = recipe.tokens // (recipe.batch * recipe.window)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(windows), generator=generator)])
        part, order = windows[order[: recipe.batch]], order[recipe.batch :]
        share = (step + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = (
                recipe.rate * min(1.0, share / 0.05) * max(0.02, (1 + math.cos(math.pi * share)) / 2)
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=processor_is_fast_at_bf16()):
            loss = model(part, labels=part).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(step + 1, float(loss.detach()))
    model.eval().save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": _END}), encoding="utf-8")


def _tokenizer(texts: Sequence[str], size: int) -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend
