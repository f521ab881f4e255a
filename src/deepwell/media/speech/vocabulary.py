"""The symbols that Kokoro v1.0 reads, as its publisher numbers them (`config.json` of hexgrad/Kokoro-82M)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["MOST_TOKENS", "SYMBOLS", "token_ids"]

MOST_TOKENS: Final = 510
"""Longest input of the model, without the padding at both ends."""

# First number of a run of symbols with consecutive numbers, and the run.
_RUNS: Final = (
    (1, ";:,.!?"),
    (9, '—…"()“” \u0303ʣʥʦʨᵝꭧAI'),
    (31, "O"),
    (33, "Q"),
    (35, "ST"),
    (39, "W"),
    (41, "Yᵊabcdef"),
    (50, "hijklmnopqrstuvwxyzɑɐɒæ"),
    (75, "βɔɕç"),
    (80, "ɖðʤə"),
    (85, "ɚɛɜ"),
    (90, "ɟ"),
    (92, "ɡ"),
    (99, "ɥ"),
    (101, "ɨɪʝ"),
    (110, "ɯɰŋɳɲɴø"),
    (118, "ɸθœ"),
    (123, "ɹ"),
    (125, "ɾɻ"),
    (128, "ʁɽʂʃʈʧ"),
    (135, "ʊʋ"),
    (138, "ʌɣɤ"),
    (142, "χʎ"),
    (147, "ʒʔ"),
    (156, "ˈˌː"),
    (162, "ʰ"),
    (164, "ʲ"),
    (169, "↓"),
    (171, "→↗↘"),
    (177, "ᵻ"),
)
SYMBOLS: Final[Mapping[str, int]] = {
    symbol: start + place for start, run in _RUNS for place, symbol in enumerate(run)
}


def token_ids(phonemes: str) -> list[int]:
    """Returns the numbers of phonemes. Symbols that the model does not know are left out."""
    return [SYMBOLS[symbol] for symbol in phonemes if symbol in SYMBOLS]
