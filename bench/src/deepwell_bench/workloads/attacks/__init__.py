"""Attacks on a server that runs, from outside: what each does, and what must hold meanwhile."""

from __future__ import annotations

from deepwell_bench.workloads.attacks import bodies, connections, grammars, objects, requests, texts
from deepwell_bench.workloads.attacks.ground import Attack, Broken, Ground, Pace

__all__ = ["ATTACKS", "FLOODS", "Attack", "Broken", "Ground", "Pace"]

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        *connections.ATTACKS,
        *requests.ATTACKS,
        *bodies.ATTACKS,
        *texts.ATTACKS,
        *grammars.ATTACKS,
        *objects.ATTACKS,
    )
}
"""All of them by name, in the order in which they are made."""

FLOODS: dict[str, Attack] = {attack.name: attack for attack in connections.FLOODS}
"""Attacks before authentication in full size."""
