"""Losses on a random model with an adapter, beside those that trl 1.16.0 computed on the same tensors.

`deepwell bench alignment-losses` computes trl's anew; here are its figures, so that no test needs trl.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell_bench.workers.tuning.alignment_losses import make, ours

pytestmark = pytest.mark.parity

THEIRS = {
    "dpo": 0.6404032,
    "dpo-strong": 0.6521847,
    "kto": 0.5112487,
    "kto-weighted": 0.9122246,
    "kto-small": 0.5796295,
    "kto-opposite": 0.5884042,
}


def test_losses_equal_those_of_trl(tmp_path: Path) -> None:
    make(tmp_path)
    assert {name: loss for name, (loss, _) in ours(tmp_path).items()} == pytest.approx(THEIRS, abs=1e-5)
