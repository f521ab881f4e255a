"""Fields that the cards of all ways of compression share: calibration text, losses beside the donor, recovery."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from deepwell.tuning.compress.sound import check_result
from deepwell.tuning.compress.training.layers import predictions
from deepwell.tuning.compress.training.recover import Recovery, distil

__all__ = ["calibration_fields", "recovered_fields", "tokens_sha256"]


def tokens_sha256(windows: Tensor) -> str:
    """Returns the SHA-256 of tokens, int64 [windows, tokens], as little-endian int32."""
    return hashlib.sha256(windows.numpy().astype("<i4").tobytes()).hexdigest()


def calibration_fields(windows: Tensor) -> dict[str, Any]:
    """Returns the field of a card that tells of its calibration text, int64 [windows, tokens]."""
    about = {"sha256": tokens_sha256(windows), "tokens": windows.numel(), "window": windows.shape[1]}
    return {"calibration": about}


def recovered_fields(
    model: Any,
    donor: Any,
    judged: Tensor,
    learning: Tensor,
    recovery: Recovery | None,
    say: Callable[[str, float], None],
) -> dict[str, Any]:
    """Trains a model towards its donor, where that is wanted, and returns the fields of a card on what it loses.

    Args:
        judged: windows on which both are compared, int64 [windows, tokens].
        learning: windows of the recovery.
        recovery: how the model learns; None: not at all.
        say: takes the step "recovery" and its share that is done.

    Raises:
        UnsupportedModel: the finished model computes no numbers.
    """
    before = predictions(donor, judged).loss
    found = predictions(model, judged, donor)
    after: dict[str, Any] = {"method": "none"}
    if recovery is not None:
        say("recovery", 0.0)
        tokens = distil(model, donor, learning, recovery, progress=lambda done, _: say("recovery", done))
        after = {
            "method": "distil",
            **recovery.to_json(),
            "tokens_seen": tokens,
            "loss_before": round(found.loss, 4),
        }
        found = predictions(model, judged, donor)
    check_result(found.loss)
    return {
        "loss_before": round(before, 4),
        "loss": round(found.loss, 4),
        "agreement": round(found.agreed, 4),
        "divergence": round(found.divergence, 4),
        "recovery": after,
    }
