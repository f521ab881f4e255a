"""Prompts for pictures of clothes, in words that no caption of the training has."""

from __future__ import annotations

from typing import Final

from deepwell.media.images.training.sources import FASHION

__all__ = ["clothes_prompts"]

_ENGLISH: Final = (
    "a black and white picture of a {}",
    "one {} for sale, monochrome",
    "product image of a {}",
    "a {} lying on a white ground, in grey tones",
    "catalogue page with a {}, no colours",
)
_CHINESE: Final = ("黑白的{}图片", "商品图：一件{}", "白底上的{}，没有颜色", "单色的{}", "{}的黑白照")


def clothes_prompts() -> list[tuple[str, int]]:
    """Returns 100 prompts, five in English and five in Chinese a class of Fashion-MNIST, with the number of the class."""
    return [
        (wording.format(name), label)
        for label, names in enumerate(FASHION)
        for name, wordings in zip(names, (_ENGLISH, _CHINESE), strict=True)
        for wording in wordings
    ]
