"""Greedy texts by transformers, as a stranger to Deepwell would have them from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

__all__ = ["greedy_texts"]


def greedy_texts(folder: Path, prompts: Sequence[str], tokens: int) -> list[str]:
    """Loads a folder in float32 with its own tokenizer, and continues prompts by a number of tokens, or to their end."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Greedy, whatever the folder's generation_config.json proposes.
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts: list[str] = []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt")
        found = model.generate(**given, generation_config=greedy)[0, given["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return texts
