"""`RayExecutor`: computes pieces on the machines of a Ray cluster; lost processes and machines lose no piece."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deepwell.errors import DeepwellError
from deepwell.fleet.pieces.piece import Facts, Piece, Recipe, Tally
from deepwell.fleet.ray.cluster import Cluster, ClusterUnavailable
from deepwell.fleet.ray.task import Failed, Worked, look, run_piece

__all__ = ["RayExecutor"]

_ATTEMPTS = 6  # of one piece; so many processes that die of it are its own fault
_AHEAD = 2  # pieces under way for each that can be computed at a time, so that no machine waits for the next
_LOOK_S = 1.0


@dataclass(slots=True)
class _Under:
    """A piece under way."""

    piece: Piece
    attempt: int


class RayExecutor:
    """Computes pieces as Ray tasks, which any machine of the cluster may take; those that join later, too.

    Args:
        cpus: processors that Ray counts for one task; the threads of the engine are the recipe's.
    """

    def __init__(self, cluster: Cluster, *, cpus: int = 1) -> None:
        self._cluster = cluster
        self._ray = cluster.ray
        self._cpus = cpus
        self._facts: tuple[Recipe, Facts] | None = None

    def facts(self, recipe: Recipe) -> Facts:
        """Opens a recipe on a machine of the cluster and returns its facts.

        Raises:
            ClusterUnavailable: no machine can open it, or every one is lost that tries.
        """
        if self._facts is not None and self._facts[0] == recipe:
            return self._facts[1]
        self._slots(0)
        for _ in range(_ATTEMPTS):
            found = self._collect(self._task(look, 0).remote(recipe))
            if found is not None:
                facts = self._checked(found).facts
                self._facts = recipe, facts
                return facts
        raise ClusterUnavailable.of("ray_piece_kills", attempts=_ATTEMPTS)

    def run(self, recipe: Recipe, pieces: Iterable[Piece], tally: Tally) -> Iterator[tuple[str, bytes]]:
        """Yields the key and the result of each piece, as they come.

        Raises:
            ClusterUnavailable: the cluster is lost, or a piece kills every process that computes it.
            DeepwellError: a piece cannot be computed, or a machine has another model or version.
        """
        facts = self.facts(recipe)
        task = self._task(run_piece, facts.memory_bytes)
        recipe_at = self._ray.put(recipe)
        waiting = iter(pieces)
        again: deque[_Under] = deque()
        under: dict[Any, _Under] = {}
        try:
            while True:
                most = _AHEAD * self._slots(facts.memory_bytes)
                while len(under) < most:
                    if (one := again.popleft() if again else self._next(waiting)) is None:
                        break
                    under[task.remote(recipe_at, one.piece.payload)] = one
                if not under:
                    return
                ready, _ = self._ray.wait(list(under), num_returns=1, timeout=_LOOK_S)
                for at in ready:
                    one = under.pop(at)
                    found = self._collect(at)
                    if found is None:
                        tally.retried += 1
                        if one.attempt == _ATTEMPTS:
                            raise ClusterUnavailable.of("ray_piece_kills", attempts=_ATTEMPTS)
                        again.append(_Under(one.piece, one.attempt + 1))
                        continue
                    worked = self._checked(found)
                    if not worked.facts.same_results(facts):
                        raise self._differs(facts, worked)
                    tally.nodes.add(worked.node)
                    tally.kernels.add(worked.facts.kernels)
                    yield one.piece.key, worked.result
        finally:
            for at in under:
                self._cancel(at)

    def close(self) -> None:
        """Leaves the cluster."""
        self._cluster.close()

    @staticmethod
    def _next(waiting: Iterator[Piece]) -> _Under | None:
        piece = next(waiting, None)
        return None if piece is None else _Under(piece, 1)

    def _task(self, function: Any, memory_bytes: int) -> Any:
        # Retries are counted here: Ray's own would hide a piece that kills every process.
        return self._ray.remote(function).options(
            num_cpus=self._cpus, memory=memory_bytes, max_retries=0, scheduling_strategy="SPREAD"
        )

    def _slots(self, memory_bytes: int) -> int:
        """Returns how many pieces the cluster can compute at a time.

        Raises:
            ClusterUnavailable: no machine is large enough for one.
        """
        nodes = self._cluster.nodes()
        slots = 0
        for node in nodes:
            by_memory = node.memory_bytes // memory_bytes if memory_bytes else math.inf
            slots += int(min(node.cpus // self._cpus, by_memory))
        if not slots:
            raise ClusterUnavailable.of(
                "ray_too_small", cpus=self._cpus, memory_mb=memory_bytes >> 20, nodes=len(nodes)
            )
        return slots

    def _collect(self, at: Any) -> Worked | Failed | None:
        """Returns what a task returned; None: its process or machine was lost.

        Raises:
            ClusterUnavailable: the cluster is lost, or has no Deepwell.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(at)
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.LocalRayletDiedError,
            errors.ObjectLostError,
            errors.OutOfMemoryError,
        ):
            return None
        except errors.RayTaskError as error:
            raise self._unforeseen(error) from None
        except errors.RayError as error:
            raise self._unforeseen(error) from None
        except (ConnectionError, RuntimeError) as error:
            raise self._cluster.lost(error) from None

    def _unforeseen(self, error: Exception) -> DeepwellError:
        told = str(error)
        if "No module named 'deepwell" in told:
            return ClusterUnavailable.of("ray_no_deepwell")
        return ClusterUnavailable.of("ray_task_failed", reason=" ".join(told.split())[-400:])

    def _checked(self, found: Worked | Failed) -> Worked:
        if isinstance(found, Failed):
            return_error = DeepwellError(f"{found.message} (on node {found.node[:12]})", fix=found.fix)
            raise return_error
        return found

    def _differs(self, facts: Facts, worked: Worked) -> DeepwellError:
        mine, other = facts.version, worked.facts.version
        if mine != other:
            return ClusterUnavailable.of("ray_versions_differ", node=worked.node[:12], here=mine, there=other)
        return ClusterUnavailable.of("ray_weights_differ", node=worked.node[:12])

    def _cancel(self, at: Any) -> None:
        try:
            self._ray.cancel(at, force=True)
        except Exception:  # what is lost needs no end
            return
