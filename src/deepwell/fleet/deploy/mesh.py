"""Envoys of the mesh grade without Kubernetes: one at the edge, one beside each replica, mutual TLS between them.

The edge decides which release a request gets and passes it to a sidecar of that release; a sidecar lets in the edge alone and
passes on to its replica on the loopback interface. What changes while a roll-out runs, shares and replicas, lies in files of
their own that Envoy watches, so that no connection is lost by a change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.certificates import TRUST_DOMAIN, Identity
from deepwell.fleet.front.routes import GENERATING

__all__ = [
    "BUCKETS",
    "RELEASES",
    "Edge",
    "Endpoint",
    "Release",
    "Sidecar",
    "Traffic",
    "bucket_of",
    "write_edge",
    "write_sidecar",
    "write_traffic",
]

Config = dict[str, Any]
Release = Literal["current", "candidate"]
"""The two sides of a roll-out; the names of clusters, identities and header values."""
RELEASES: Final[tuple[Release, ...]] = ("current", "candidate")
BUCKETS: Final = 1000
"""Number of buckets that users are sorted into: a share is exact to a tenth of a percent."""

_FILTER: Final = "envoy.filters.http.lua"
_HEADER: Final = "x-deepwell-release"
_BUCKET_HEADER: Final = "x-deepwell-bucket"
_MAKES: Final[tuple[Config, ...]] = (
    {"name": ":method", "string_match": {"exact": "POST"}},
    {
        "name": ":path",
        "string_match": {"safe_regex": {"regex": f"({'|'.join(map(re.escape, GENERATING))})(\\?.*)?"}},
        "invert_match": True,
    },
)
"""Matches requests that make something, such as a batch: sent twice, they would make it twice."""
_BODY_BYTES: Final = 9 << 20  # above the largest JSON body that the server takes
_MANAGER: Final = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)


class Endpoint(NamedTuple):
    """An address and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Edge:
    """The Envoy that clients reach.

    Attributes:
        listen: where clients come in, over plain HTTP: TLS to the outside is that of a load balancer before it.
        identity: certificate by which sidecars know it.
        admin: path of the socket for statistics and draining, which only the machine's own users reach.
        timeout_s: seconds that a request may take in all; above the server's `request_timeout_s`.
    """

    listen: Endpoint
    identity: Identity
    admin: Path
    timeout_s: float = 1815.0


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The Envoy beside one replica.

    Attributes:
        listen: where the edge comes in, over mutual TLS.
        replica: port of the replica on the loopback interface.
        identity: certificate of the replica's release.
        admin: path of the socket for statistics and draining.
    """

    listen: Endpoint
    replica: int
    identity: Identity
    admin: Path


@dataclass(frozen=True, slots=True)
class Traffic:
    """Part of the mesh that a roll-out changes while the edge runs.

    Attributes:
        replicas: sidecars of each release.
        share: share of the users that the candidate gets, from 0 to 1.
        rollout: id of the roll-out, by which servers draw users too.
        keys: tenant and id of each API key by the SHA-256 of the key, in hex; None: they are not known here, so that users of
            all keys are drawn as those of one tenant.
    """

    replicas: Mapping[Release, Sequence[Endpoint]] = field(default_factory=dict[Release, Sequence[Endpoint]])
    share: float = 0.0
    rollout: str = ""
    keys: Mapping[str, tuple[str, str]] | None = None


def bucket_of(rollout: str, tenant: str, identity: str) -> int:
    """Returns the bucket of a user, as the edge's filter computes it.

    A user is in a bucket below a share exactly if `takes_candidate` of the servers is true for it, in steps of a thousandth.

    Args:
        identity: as `storage.registry.split.identity_of` makes it.
    """
    text = f"{len(rollout)}:{rollout}{len(tenant)}:{tenant}{identity}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") * BUCKETS >> 64


def write_edge(edge: Edge, traffic: Traffic, folder: Path) -> Path:
    """Writes the edge's configuration and returns its file, for `envoy -c FILE`.

    Raises:
        InvalidRequest: the share is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_traffic(edge, traffic, folder)
    lua = Path(__file__).with_name("edge.lua").read_text("utf-8")
    filters = [_filter("lua", "lua.v3.Lua", default_source_code={"inline_string": lua}), _router()]
    manager = _manager(
        "edge",
        filters,
        rds={"route_config_name": "edge", "config_source": _watched(folder / "routes.json")},
        # Strangers: their addresses are noted, and what they say of certificates is dropped.
        use_remote_address=True,
        forward_client_cert_details="SANITIZE",
    )
    clusters = [_release_cluster(release, edge, folder) for release in RELEASES]
    return _write(
        folder / "edge.json", _bootstrap("edge", edge.admin, _listener(edge.listen, manager), clusters)
    )


def write_traffic(edge: Edge, traffic: Traffic, folder: Path) -> dict[str, str]:
    """Writes shares and replicas beside a configuration; an Envoy that runs takes them over at once.

    Returns the versions of `routes` and of each release's replicas. The edge shows them when it has taken them over, in its
    statistics `http.edge.rds.edge.version_text` and `cluster.RELEASE.version_text`.

    Raises:
        InvalidRequest: the share is none, or a share above 0 has no replicas of the candidate.
    """
    if not 0 <= traffic.share <= 1:
        raise InvalidRequest(
            f"a share of {traffic.share} is not between 0 and 1", fix="name a share such as 0.05"
        )
    if traffic.share and not traffic.replicas.get("candidate"):
        raise InvalidRequest(
            f"the candidate has no replicas, and is to get a share of {traffic.share:g}",
            fix="start its replicas first, and name them",
        )
    files: dict[str, Config] = {
        release: _endpoints(release, traffic.replicas.get(release, ())) for release in RELEASES
    }
    # Last, so that no route leads to replicas that are not there yet.
    files["routes"] = _resources("envoy.config.route.v3.RouteConfiguration", _routes(edge, traffic))
    for name, config in files.items():
        _write(folder / f"{name}.json", config)
    return {name: config["version_info"] for name, config in files.items()}


def write_sidecar(sidecar: Sidecar, path: Path) -> Path:
    """Writes a sidecar's configuration and returns its file, for `envoy -c FILE`."""
    route = {"cluster": "replica", "timeout": "0s"}  # the edge keeps the time
    manager = _manager(
        "sidecar",
        [_router()],
        route_config={
            "name": "sidecar",
            "virtual_hosts": [
                {"name": "replica", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
            ],
        },
        forward_client_cert_details="SANITIZE",
    )
    secured = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": _tls(sidecar.identity, f"{TRUST_DOMAIN}/edge"),
        },
    }
    cluster = {
        "name": "replica",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _unbroken(),
        "load_assignment": {
            "cluster_name": "replica",
            "endpoints": [{"lb_endpoints": [_endpoint(Endpoint("127.0.0.1", sidecar.replica))]}],
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(
        path, _bootstrap("sidecar", sidecar.admin, _listener(sidecar.listen, manager, secured), [cluster])
    )


def _bootstrap(name: str, admin: Path, listener: Config, clusters: Sequence[Config]) -> Config:
    return {
        "node": {"id": name, "cluster": "deepwell"},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": [listener], "clusters": list(clusters)},
    }


def _listener(listen: Endpoint, manager: Config, secured: Config | None = None) -> Config:
    chain: Config = {"filters": [manager]}
    if secured is not None:
        chain["transport_socket"] = secured
    return {
        "name": "inbound",
        "address": _address(listen),
        "per_connection_buffer_limit_bytes": _BODY_BYTES,
        "filter_chains": [chain],
    }


def _manager(name: str, filters: Sequence[Config], **options: Any) -> Config:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _MANAGER,
            "stat_prefix": name,
            "http_filters": list(filters),
            "normalize_path": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
            # A model may think for long between two tokens; a request as a whole has a limit.
            "stream_idle_timeout": "0s",
            "server_header_transformation": "PASS_THROUGH",
            **options,
        },
    }


def _filter(name: str, kind: str, **options: Any) -> Config:
    config = {"@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}", **options}
    return {"name": f"envoy.filters.http.{name}", "typed_config": config}


def _router() -> Config:
    # Without this the edge would add headers of its own to what replicas and clients see.
    return _filter("router", "router.v3.Router", suppress_envoy_headers=True)


def _routes(edge: Edge, traffic: Traffic) -> Config:
    """Returns the table of the edge: previews, users below the share, and everybody else."""

    told: dict[str, Any] = {"rollout": traffic.rollout, "owned": traffic.keys is not None}
    told |= {key: f"{tenant}|{number}" for key, (tenant, number) in (traffic.keys or {}).items()}

    def one(release: Release, retries: Config, *headers: Config) -> Config:
        return {
            "metadata": {"filter_metadata": {_FILTER: told}},
            "match": {"prefix": "/", "headers": list(headers)},
            "route": {"cluster": release, "timeout": f"{edge.timeout_s:g}s", "retry_policy": retries},
            "request_headers_to_remove": [_BUCKET_HEADER],
            "request_headers_to_add": [
                {"header": {"key": _HEADER, "value": release}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            ],
        }

    def to(release: Release, *headers: Config) -> list[Config]:
        return [one(release, _unsent(), *headers, *_MAKES), one(release, _retries(), *headers)]

    routes: list[Config] = []
    points = round(traffic.share * BUCKETS)
    if traffic.replicas.get("candidate"):
        routes += to("candidate", {"name": _HEADER, "string_match": {"exact": "candidate"}})
        if 0 < points < BUCKETS:
            below = {"start": 0, "end": points}  # without the end
            routes += to("candidate", {"name": _BUCKET_HEADER, "range_match": below})
    routes += to("candidate" if points == BUCKETS else "current")
    return {"name": "edge", "virtual_hosts": [{"name": "deepwell", "domains": ["*"], "routes": routes}]}


def _unsent() -> Config:
    """Returns when a request that makes something is sent again: while no replica can have begun with it."""
    return {**_retries(), "retry_on": "connect-failure,refused-stream"}


def _retries() -> Config:
    """Returns when a request is sent again, to another replica: only while no byte of its answer has come."""
    return {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        # A replica that drains, is full, or is gone behind its sidecar.
        "retriable_status_codes": [503],
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }


def _release_cluster(release: Release, edge: Edge, folder: Path) -> Config:
    """Returns the replicas of one release: the least loaded first, asked for their health, those that fail left out."""
    # A machine whose packets vanish closes no connection. Without pings, requests to it would wait for their whole time.
    pings = {"interval": "2s", "timeout": "6s", "connection_idle_interval": "1s"}
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": pings}},
    }
    return {
        "name": release,
        "type": "EDS",
        "eds_cluster_config": {"service_name": release, "eds_config": _watched(folder / f"{release}.json")},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        # A replica that is no longer named gets nothing new at once, however healthy; its streams go on to their end.
        "ignore_health_on_host_removal": True,
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": _tls(edge.identity, f"{TRUST_DOMAIN}/{release}"),
            },
        },
        "health_checks": [
            {
                "timeout": "4s",
                "interval": "2s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz", "host": "127.0.0.1", "codec_client_type": "HTTP2"},
            }
        ],
        # Its connections tell at once that a replica is gone. Status 503 is no such sign: a full server answers with it.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 50,
            "always_eject_one_host": True,
        },
        "circuit_breakers": _unbroken(),
    }


def _unbroken() -> Config:
    """Returns limits that are never met: servers have queues and limits of their own, which say how long to wait."""
    most = {
        "max_connections": 16384,
        "max_pending_requests": 16384,
        "max_requests": 16384,
        "max_retries": 256,
    }
    return {"thresholds": [most]}


def _tls(own: Identity, peer: str) -> Config:
    """Returns TLS 1.3 with a certificate of one's own, and a peer that has to be one identity of the authority."""
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "alpn_protocols": ["h2"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(own.certificate)},
                "private_key": {"filename": str(own.key)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(own.authority)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
    }


def _endpoints(release: Release, replicas: Sequence[Endpoint]) -> Config:
    assignment = {
        "cluster_name": release,
        "endpoints": [{"lb_endpoints": [_endpoint(one) for one in replicas]}],
    }
    return _resources("envoy.config.endpoint.v3.ClusterLoadAssignment", assignment)


def _endpoint(one: Endpoint) -> Config:
    return {"endpoint": {"address": _address(one)}}


def _address(one: Endpoint) -> Config:
    return {"socket_address": {"address": one.host, "port_value": one.port}}


def _resources(kind: str, resource: Config) -> Config:
    version = hashlib.sha256(json.dumps(resource).encode()).hexdigest()[:16]
    return {"version_info": version, "resources": [{"@type": f"type.googleapis.com/{kind}", **resource}]}


def _watched(path: Path) -> Config:
    return {"path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}}}


def _write(path: Path, config: Config) -> Path:
    """Writes a file in one move: an Envoy that watches it never reads half of it."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(config, stream, indent=1)
    Path(draft).replace(path)
    return path
