"""`SearchOptions`: the choices of an architecture search. With donor and text they decide all of it but what is timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from deepwell.engine.layouts import Precision
from deepwell.errors import InvalidRequest

__all__ = ["MOST_SHARE", "SearchOptions"]

MOST_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Choices of a search.

    Attributes:
        shares: parts of the donor's weights, and of its time, to leave out: each is a budget that candidates compete in.
        rounds: candidates that are run for every budget of weights and of time.
        uniform: layers of one shape alone, as any engine loads them.
        precision: of the weights whose speed is measured.
        threads: of the engine whose speed is measured; None: all processors.

    Raises:
        InvalidRequest: a share is none that can be left out.
    """

    shares: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    rounds: int = 8
    seed: int = 0
    uniform: bool = False
    precision: Precision = "int8"
    threads: int | None = None

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 < share <= MOST_SHARE:
                raise InvalidRequest.of(
                    "compress_shares", param="shares", given=f"{share:g}", most=MOST_SHARE
                )

    def to_json(self) -> dict[str, Any]:
        """Returns the options as plain JSON values."""
        return asdict(self) | {"shares": list(self.shares)}
