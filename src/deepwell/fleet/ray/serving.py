"""`Replicas`: the server as an application of Ray Serve, whose replicas follow the load.

A replica is the whole OpenAI-compatible application with its engine in the same process. Ray Serve hands it ASGI messages as
they come, and no batch timer (`@serve.batch`) stands before the engine, which batches by steps itself. So the first token
leaves with the step that computes it.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.fleet.ray.cluster import Cluster, ClusterUnavailable

__all__ = ["Replicas", "ServeOptions", "application"]

_NAME = "deepwell"
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of an application.

    Attributes:
        settings: settings of the replicas, beside those of the machine that each one runs on.
        replicas: least number of replicas.
        max_replicas: most replicas.
        target_requests: requests under way at a replica that the number of replicas aims at.
        max_requests: most requests under way at a replica; further ones wait in the proxy.
        cpus: processors that Ray counts for a replica.
        every_machine: whether each machine of the cluster has a proxy, instead of the head alone.
    """

    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    max_replicas: int = 1
    target_requests: float = 8.0
    max_requests: int = 64
    cpus: int = 1
    upscale_s: float = 10.0
    downscale_s: float = 300.0
    every_machine: bool = False


class Replicas:
    """The application on a cluster, until `close`.

    Args:
        on_wait: is called every fifth of a second while replicas start.

    Raises:
        InvalidRequest: the numbers of replicas contradict each other.
        ClusterUnavailable: the replicas do not start.
    """

    def __init__(
        self, cluster: Cluster, options: ServeOptions, *, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        if options.replicas > options.max_replicas:
            raise InvalidRequest.of("ray_replicas_wrong", least=options.replicas, most=options.max_replicas)
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it tells of every step
        self._serve: Any = serve
        self._cluster = cluster
        location = "EveryNode" if options.every_machine else "HeadOnly"
        http = {"host": options.host, "port": options.port}
        try:
            serve.start(proxy_location=location, http_options=http, logging_config={"log_level": "ERROR"})
            target = serve.RunTarget(target=application(options), name=_NAME, route_prefix="/")
            serve.run_many([target], wait_for_applications_running=False)
        except (RuntimeError, ValueError, OSError) as error:
            raise ClusterUnavailable.of("ray_serve_failed", reason=_short(str(error))) from None
        try:
            self._await(on_wait)
        except BaseException:
            self.close()
            raise

    def status(self) -> dict[str, Any]:
        """Returns the state of the application and the number of replicas in each state."""
        return status_of(self._serve)

    def close(self) -> None:
        """Ends the application; its replicas finish the answers under way."""
        with suppress(Exception):  # with the cluster it is gone already
            self._serve.delete(_NAME)

    def _await(self, on_wait: Callable[[], None]) -> None:
        while True:
            found = self.status()
            if found["status"] == "RUNNING":
                return
            if found["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ClusterUnavailable.of("ray_serve_failed", reason=_short(found["message"]))
            on_wait()
            time.sleep(_LOOK_S)


def status_of(serve: Any) -> dict[str, Any]:
    """Returns the state of the application on the cluster that is connected."""
    found = serve.status().applications.get(_NAME)
    if found is None:
        return {"status": "NOT_STARTED", "message": "", "replicas": {}}
    replicas: dict[str, int] = {}
    messages = [found.message]
    for deployment in found.deployments.values():
        messages.append(deployment.message)
        for state, count in deployment.replica_states.items():
            replicas[_word(state)] = replicas.get(_word(state), 0) + count
    return {
        "status": _word(found.status),
        "message": " ".join(filter(None, messages)),
        "replicas": replicas,
    }


def application(options: ServeOptions) -> Any:
    """Returns the application of Ray Serve, which is not started yet.

    Raises:
        MissingDependency: Ray is not installed.
    """
    from deepwell.fleet.ray.cluster import import_ray

    import_ray()
    from ray import serve

    given = dict(options.settings)

    def build() -> Any:
        from deepwell.fleet.ray.replica import Replica

        return Replica(given)

    made: Any = serve.deployment(serve.ingress(build)())
    scaled: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas > options.replicas:
        scaled = {
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.target_requests,
                "upscale_delay_s": options.upscale_s,
                "downscale_delay_s": options.downscale_s,
            }
        }
    return made.options(
        name=_NAME,
        max_ongoing_requests=options.max_requests,
        ray_actor_options={"num_cpus": options.cpus},
        **scaled,
    ).bind()


def _word(state: Any) -> str:
    """Returns the word of a state, which is an enumeration in some versions of Ray and text in others."""
    return str(getattr(state, "value", state))


def _short(text: str) -> str:
    return " ".join(text.split())[-400:] or "Ray Serve does not say why"
