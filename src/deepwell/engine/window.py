"""`Window`: the tokens of a sequence of any length that stay in the cache.

The first tokens of a sequence (the *sinks*, which attention leans on whatever they say: arXiv:2309.17453) and its most
recent ones. When the window is full and another token comes, the older half of the recent blocks is forgotten, and the
younger half moves down to close the gap. Positions are places in the window, so they never exceed what the model knows.

Where a window slides depends on numbers of tokens alone, so a sequence has the same results in any company and however it was
split into steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.errors import ContextLengthExceeded, InvalidRequest

__all__ = ["MOST_TOKENS", "Window", "check_window"]

MOST_TOKENS: Final = 1 << 26  # of one windowed sequence, prompt and completion: 256 MB of token ids


@dataclass(frozen=True, slots=True)
class Window:
    """Sizes in tokens, both multiples of 16. A sequence that fits `tokens` is computed as without a window."""

    sinks: int  # first tokens of the sequence, which are never forgotten; 0: none
    recent: int  # most recent tokens, at most
    rank: int = (
        0  # of the factors that forgotten keys and values are kept as, a multiple of 16; 0: they are lost
    )
    remembered: int = 65_536  # most forgotten tokens that are kept as factors, the most recent ones

    @property
    def tokens(self) -> int:
        """Most tokens in the cache at once."""
        return self.sinks + self.recent

    @property
    def stride(self) -> int:
        """Tokens that are forgotten at once: half of the recent blocks, rounded up."""
        return -(-self.recent // (2 * BLOCK_TOKENS)) * BLOCK_TOKENS

    def forgotten(self, position: int) -> int:
        """Returns the number of tokens that are forgotten before the token at `position` of the sequence is computed."""
        return max(0, (position - self.tokens) // self.stride + 1) * self.stride


def check_window(window: Window, tokens: int, max_model_len: int) -> None:
    """Refuses a window that the engine cannot hold, and more tokens than one sequence may have.

    Raises:
        ContextLengthExceeded: the window exceeds the context, or there are more than `MOST_TOKENS` tokens.
        InvalidRequest: a size is not a multiple of 16, or there are no recent tokens.
    """
    sizes = {"sinks": window.sinks, "recent": window.recent}
    if window.sinks < 0 or window.recent <= 0 or any(size % BLOCK_TOKENS for size in sizes.values()):
        raise InvalidRequest.of("window_uneven", param="window", block=BLOCK_TOKENS, **sizes)
    if window.tokens > max_model_len:
        raise ContextLengthExceeded.of(
            "window_too_large", param="window", window=window.tokens, context=max_model_len
        )
    if tokens > MOST_TOKENS:
        raise ContextLengthExceeded.of("windowed_too_long", param="prompt", tokens=tokens, most=MOST_TOKENS)
