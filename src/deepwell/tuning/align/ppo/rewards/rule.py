"""`RuleReward`: 1 where a pattern is, or is not, in an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import re2

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.prompts import Prompt

__all__ = ["RuleReward"]


class RuleReward:
    """1 for answers with a pattern, or for those without, else 0.

    Args:
        pattern: regular expression of RE2, which takes linear time on whatever a policy writes.

    Raises:
        InvalidRequest: the pattern is none.
    """

    def __init__(self, pattern: str, want: Literal["present", "absent"] = "present") -> None:
        if not pattern:
            raise InvalidRequest.of("reward_no_pattern", param="pattern")
        try:
            options = re2.Options()
            options.log_errors = False
            self._pattern = re2.compile(pattern, options=options)
        except (re2.error, UnicodeEncodeError) as error:
            raise InvalidRequest.of("reward_pattern", param="pattern", reason=error) from None
        self._present = want == "present"

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns 0 or 1."""
        return [float((self._pattern.search(one) is not None) == self._present) for one in answers]
