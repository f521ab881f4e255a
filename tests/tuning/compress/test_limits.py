"""Conversions that the engine could not run are refused before anything is computed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from tests.models.builders import TINY

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.config import ModelConfig
from deepwell.tuning.compress.convert.export import Latent, converted_config
from deepwell.tuning.compress.convert.limits import (
    check_cached,
    check_exact,
    default_cached,
    donor_cached,
    rotated_widths,
)

SMALL = replace(TINY, head_dim=64, num_attention_heads=9, num_key_value_heads=3)
LLAMA_3_1B = replace(TINY, head_dim=64, num_attention_heads=32, num_key_value_heads=8)
LLAMA_2_7B = replace(TINY, head_dim=128, num_attention_heads=32, num_key_value_heads=32)
WIDE = replace(TINY, head_dim=256, num_attention_heads=4, num_key_value_heads=1)


@pytest.mark.parametrize("config", [TINY, SMALL, LLAMA_3_1B, LLAMA_2_7B])
def test_what_is_cached_unless_told_otherwise_has_splits_that_run(config) -> None:
    cached = default_cached(config)
    check_cached(config, cached)
    for rope in rotated_widths(config, cached):
        made = converted_config(
            config, Latent(cached - rope, config.head_dim, rope, config.head_dim, (1.0,) * (rope // 2))
        )
        assert made.kv_lora_rank <= 1024 and made.head_dim <= 256


@pytest.mark.parametrize(
    ("config", "cached", "words"),
    [
        (SMALL, 16, None),
        (SMALL, 384, None),
        (SMALL, 392, "16 to 376, or 384"),
        (SMALL, 20, "multiple of 8"),
        (LLAMA_3_1B, 1024, "16 to 1016$"),  # exactly as the donor: a rotated key of 512
        (LLAMA_2_7B, 16, "32 to 1072$"),
        (LLAMA_2_7B, 2560, "32 to 1072$"),  # 5/16 of the donor's: a latent of over 1024
        (WIDE, 64, "smaller heads"),
    ],
)
def test_a_cache_that_cannot_be_made_is_refused_with_those_that_can(
    config: ModelConfig, cached: int, words: str | None
) -> None:
    with pytest.raises(InvalidRequest, match=words) if words else nullcontext():
        check_cached(config, cached)


def test_experts_beside_exact_attention_need_few_keys() -> None:
    check_exact(SMALL)
    for config in (LLAMA_3_1B, LLAMA_2_7B, WIDE):
        with pytest.raises(UnsupportedModel, match="deepseek-v3"):
            check_exact(config)
    assert donor_cached(SMALL) == 384
