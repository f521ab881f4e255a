"""`deepwell bench media-router`: what held-out requests ask for, and how long it takes to decide."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import InvalidRequest
from deepwell.media.router.features import encoded_text
from deepwell.media.router.labelled import Labelled, read_labelled
from deepwell.media.router.route import Route, Router

__all__ = ["HELD_OUT_SHA256", "bench_media_router"]

HELD_OUT_SHA256: Final = "4ed9edf675d3bdc4b2b5466c0e4cdae563f0111e9a443acfc84cca92210e8668"
"""The held-out requests as they were written before any training."""

Encoder = Callable[[str], NDArray[np.float32]]


def bench_media_router(report: Report, held_out: Path, train: Path, encode: Encoder) -> dict[str, Any]:
    """Returns accuracies on held-out requests, and the time of a request with the encoder.

    Args:
        held_out: the held-out requests, whose bytes are checked.
        train: the requests of the training, of which none may be held out.
        encode: e5-small.

    Raises:
        InvalidRequest: the held-out file is another.
    """
    if hashlib.sha256(held_out.read_bytes()).hexdigest() != HELD_OUT_SHA256:
        raise InvalidRequest.of("router_held_out", path=held_out)
    requests = read_labelled(held_out)
    known = read_labelled(train)
    shared = {one.text for one in requests} & {one.text for one in known}
    router = Router()
    for one in requests[:20]:  # the first calls compile expressions and fill caches
        _timed(router, one, encode)
    routes, seconds, encoder_seconds = list[Route](), list[float](), list[float]()
    for one in requests:
        route, whole, encoder = _timed(router, one, encode)
        routes.append(route)
        seconds.append(whole)
        encoder_seconds += [encoder] if encoder else []
    right = [route.intents == one.wanted() for route, one in zip(routes, requests, strict=True)]
    alone = [router.route(one.text, one.attached).intents == one.wanted() for one in requests]
    _tables(report, requests, right, alone)
    several = [len(one.intents) > 1 for one in requests]
    rules = [route.by == "rules" for route in routes]
    return {
        "held_out": len(requests),
        "training": len(known),
        "shared_with_training": len(shared),
        "accuracy": rounded(_share(right)),
        "accuracy_several": rounded(_share(right, several)),
        "accuracy_without_encoder": rounded(_share(alone)),
        "decided_by_rules": rounded(_share(rules)),
        "rules_right": rounded(_share(right, rules)),
        "ms": rounded(1000 * percentile(seconds, 0.5)),
        "ms_95": rounded(1000 * percentile(seconds, 0.95)),
        "encoder_ms": rounded(1000 * percentile(encoder_seconds or [0.0], 0.5)),
    }


def _timed(router: Router, request: Labelled, encode: Encoder) -> tuple[Route, float, float]:
    """Returns the route, the seconds of all of it, and those of the encoder; 0 where rules decided."""
    begin = time.perf_counter()
    route, encoder = router.decided(request.text, request.attached), 0.0
    if route is None:
        before = time.perf_counter()
        vector = encode(encoded_text(request.text))
        encoder = time.perf_counter() - before
        route = router.route(request.text, request.attached, vector)
    return route, time.perf_counter() - begin, encoder


def _tables(
    report: Report, requests: Sequence[Labelled], right: Sequence[bool], alone: Sequence[bool]
) -> None:
    groups: dict[str, list[bool]] = {}
    for language in sorted({one.language for one in requests}):
        groups[language] = [one.language == language for one in requests]
    for intents in sorted({one.wanted() for one in requests}):
        groups[" + ".join(intents)] = [one.wanted() == intents for one in requests]
    rows = [
        (name, sum(chosen), f"{_share(right, chosen):.1%}", f"{_share(alone, chosen):.1%}")
        for name, chosen in groups.items()
    ]
    report.table("Right", ("requests", "number", "with the encoder", "without"), rows)


def _share(right: Sequence[bool], chosen: Sequence[bool] | None = None) -> float:
    """Returns the share of right answers, of the chosen ones where that is given; 1 of none."""
    kept = [one for place, one in enumerate(right) if chosen is None or chosen[place]]
    return sum(kept) / len(kept) if kept else 1.0
