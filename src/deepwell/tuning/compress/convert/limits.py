"""Sizes of a converted model's cache that the engine's kernels run, asked before anything is computed."""

from __future__ import annotations

from typing import Final

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.config_mixture import MAX_HEAD_DIM, MAX_LATENT_RANK
from deepwell.tuning.compress.convert.latent import SMALLEST_NOPE

__all__ = ["check_cached", "check_exact", "default_cached", "donor_cached", "rotated_widths"]

_SHARE: Final = 5 / 16  # of the donor's cache that stays, as in MHA2MLA's middle setting
_ROPES: Final = (2, 3, 4, 6)  # sixteenths of a head that stay rotated, in candidates
_STEP: Final = 8
_LEAST: Final = 16


def donor_cached(config: ModelConfig) -> int:
    """Returns the numbers a token and layer that a donor caches."""
    return 2 * config.num_key_value_heads * config.head_dim


def default_cached(config: ModelConfig) -> int:
    """Returns the numbers a token and layer that a conversion caches unless told otherwise: 5/16 of the donor's, or less."""
    wanted = min(int(_SHARE * donor_cached(config)), MAX_LATENT_RANK + _widths(config)[0])
    return max(_LEAST, wanted // _STEP * _STEP)


def rotated_widths(config: ModelConfig, cached: int) -> list[int]:
    """Returns the widths of the rotated key to try beside a latent; none: no split of so many numbers runs."""
    return [
        one
        for one in _widths(config)
        if one <= cached // 2
        and cached - one <= MAX_LATENT_RANK
        and config.head_dim + one
        <= MAX_HEAD_DIM  # a query has all of its head for the latent, and the rotated part
    ]


def check_cached(config: ModelConfig, cached: int) -> None:
    """Checks that latent attention can cache so many numbers a token and layer.

    Raises:
        InvalidRequest: it cannot; the fix names the numbers that it can.
    """
    most = donor_cached(config)
    runs = [one for one in range(_LEAST, most, _STEP) if rotated_widths(config, one)]
    if cached in runs or (cached == most and cached % _STEP == 0 and runs_exactly(config)):
        return
    exact = runs_exactly(config)
    key = "compress_cached_numbers" if runs and exact else "compress_cached_step" if runs else ""
    key = key or ("compress_cached_exact" if exact else "compress_cached_never")
    ends = {"step": _STEP, "first": runs[0], "last": runs[-1]} if runs else {}
    raise InvalidRequest.of(key, param="cached", cached=cached, most=most, **ends)


def check_exact(config: ModelConfig) -> None:
    """Checks that latent attention can do exactly what the donor's does: all of its keys become one rotated key.

    Raises:
        UnsupportedModel: the key would be wider than the engine runs.
    """
    if not runs_exactly(config):
        keys = config.num_key_value_heads * config.head_dim
        raise UnsupportedModel(
            f"the keys of this model have {keys} numbers a token, and an exact conversion of its attention runs up to "
            f"{MAX_HEAD_DIM - SMALLEST_NOPE}",
            fix="convert attention as well: --to deepseek-v3",
        )


def runs_exactly(config: ModelConfig) -> bool:
    """Returns whether the engine runs the exact conversion of a donor's attention."""
    return config.num_key_value_heads * config.head_dim <= MAX_HEAD_DIM - SMALLEST_NOPE


def _widths(config: ModelConfig) -> list[int]:
    return sorted({max(2, config.head_dim * part // 16 // 8 * 8) for part in _ROPES})
