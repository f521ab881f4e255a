"""Configurations of the mesh's Envoys: what they promise, and that a real Envoy accepts them where one is installed."""

from __future__ import annotations

import json
import math
import re
import ssl
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.needs import ENVOY, OPENSSL

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.certificates import Authority, Identity
from deepwell.fleet.deploy.mesh import (
    BUCKETS,
    Edge,
    Endpoint,
    Sidecar,
    Traffic,
    bucket_of,
    write_edge,
    write_sidecar,
    write_traffic,
)
from deepwell.storage.registry.split import identity_of, takes_candidate

CURRENT, CANDIDATE = Endpoint("198.18.0.2", 15006), Endpoint("198.18.0.3", 15006)


def identity(name: str) -> Identity:
    return Identity(f"spiffe://deepwell/{name}", Path(f"{name}.crt"), Path(f"{name}.key"), Path("ca.crt"))


def edge(folder: Path) -> Edge:
    return Edge(Endpoint("127.0.0.1", 8080), identity("edge"), folder / "edge.sock")


def both(share: float) -> Traffic:
    return Traffic({"current": [CURRENT], "candidate": [CANDIDATE]}, share)


def routes(folder: Path, traffic: Traffic) -> list[dict[str, Any]]:
    write_edge(edge(folder), traffic, folder)
    (table,) = json.loads((folder / "routes.json").read_text("utf-8"))["resources"]
    return table["virtual_hosts"][0]["routes"]


def route_of(table: list[dict[str, Any]], headers: dict[str, str]) -> str:
    """The cluster of the first route whose headers match, as Envoy reads a table."""
    for one in table:
        for wanted in one["match"]["headers"]:
            value = headers.get(wanted["name"])
            if "string_match" in wanted and value != wanted["string_match"]["exact"]:
                break
            if "range_match" in wanted:
                bounds = wanted["range_match"]
                if value is None or not bounds["start"] <= int(value) < bounds["end"]:
                    break
        else:
            return one["route"]["cluster"]
    raise AssertionError("no route")


@given(st.text(), st.text(), st.text(), st.integers(0, BUCKETS))
def test_buckets_are_the_draw_of_the_servers(rollout: str, tenant: str, user: str, points: int) -> None:
    identity = identity_of(user, "key")
    bucket = bucket_of(rollout, tenant, identity)
    assert 0 <= bucket < BUCKETS
    # A share is a number of thousandths; as a float it may be a hair below one, which moves no bucket but its edge.
    if bucket not in (points - 1, points):
        assert (bucket < points) == takes_candidate(rollout, points / BUCKETS, tenant, identity)


def test_what_draws_users_comes_with_every_route(tmp_path: Path) -> None:
    traffic = replace(both(0.5), rollout="r1", keys={"ab" * 32: ("acme", "key_1")})
    for one in routes(tmp_path, traffic):
        told = one["metadata"]["filter_metadata"]["envoy.filters.http.lua"]
        assert told == {"rollout": "r1", "owned": True, "ab" * 32: "acme|key_1"}


@pytest.mark.parametrize(
    ("share", "headers", "expected"),
    [
        (0.0, {"x-deepwell-bucket": "0"}, "current"),
        (0.0, {"x-deepwell-release": "candidate"}, "candidate"),
        (0.0, {}, "current"),
        (0.25, {"x-deepwell-bucket": "249"}, "candidate"),
        (0.25, {"x-deepwell-bucket": "250"}, "current"),
        (0.25, {}, "current"),  # nobody is known: no other model with every request
        (1.0, {}, "candidate"),
        (1.0, {"x-deepwell-bucket": "999"}, "candidate"),
    ],
)
def test_the_edge_decides_by_preview_then_by_user(
    tmp_path: Path, share: float, headers: dict[str, str], expected: str
) -> None:
    assert route_of(routes(tmp_path, both(share)), headers) == expected


def test_without_a_candidate_a_preview_gets_the_current_release(tmp_path: Path) -> None:
    table = routes(tmp_path, Traffic({"current": [CURRENT]}))
    assert route_of(table, {"x-deepwell-release": "candidate"}) == "current"


def test_every_route_passes_its_release_on_and_drops_the_bucket(tmp_path: Path) -> None:
    for one in routes(tmp_path, both(0.5)):
        (added,) = one["request_headers_to_add"]
        assert added["header"] == {"key": "x-deepwell-release", "value": one["route"]["cluster"]}
        assert added["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
        assert one["request_headers_to_remove"] == ["x-deepwell-bucket"]


@pytest.mark.parametrize(
    "traffic", [both(1.01), both(-0.1), both(math.nan), Traffic({"current": [CURRENT]}, 0.1)]
)
def test_shares_that_cannot_be_are_refused(tmp_path: Path, traffic: Traffic) -> None:
    with pytest.raises(InvalidRequest) as caught:
        write_traffic(edge(tmp_path), traffic, tmp_path)
    assert caught.value.fix
    assert not list(tmp_path.iterdir())


def test_versions_follow_the_content_alone(tmp_path: Path) -> None:
    first, again = (write_traffic(edge(tmp_path), both(0.1), tmp_path) for _ in range(2))
    other = write_traffic(edge(tmp_path), both(0.2), tmp_path)
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"routes"}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["candidate.json", "current.json", "routes.json"]


def _peers(config: Any) -> list[str]:
    """Every identity that a configuration wants of a peer."""
    if isinstance(config, list):
        return [name for one in config for name in _peers(one)]
    if not isinstance(config, dict):
        return []
    own = [one["matcher"]["exact"] for one in config.get("match_typed_subject_alt_names", ())]
    return own + [name for one in config.values() for name in _peers(one)]


def test_a_sidecar_lets_in_the_edge_alone_and_the_edge_meets_each_release_as_itself(tmp_path: Path) -> None:
    sidecar = Sidecar(CURRENT, 8000, identity("current"), tmp_path / "s.sock")
    config = json.loads(write_sidecar(sidecar, tmp_path / "s.json").read_text("utf-8"))
    (listener,) = config["static_resources"]["listeners"]
    assert all(
        chain["transport_socket"]["typed_config"]["require_client_certificate"]
        for chain in listener["filter_chains"]
    )
    assert _peers(config) == ["spiffe://deepwell/edge"]
    config = json.loads(write_edge(edge(tmp_path), both(0), tmp_path / "edge").read_text("utf-8"))
    assert _peers(config) == ["spiffe://deepwell/current", "spiffe://deepwell/candidate"]


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_what_makes_something_is_sent_again_only_if_no_replica_can_have_begun(
    tmp_path: Path, share: float
) -> None:
    table = routes(tmp_path, both(share))
    assert len(table) % 2 == 0
    for making, other in zip(table[::2], table[1::2], strict=True):
        assert making["route"]["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
        assert "reset" in other["route"]["retry_policy"]["retry_on"]
        *mine, method, path = making["match"]["headers"]
        assert mine == other["match"]["headers"] and making["route"]["cluster"] == other["route"]["cluster"]
        assert method["string_match"]["exact"] == "POST" and path["invert_match"]
        generating = re.compile(path["string_match"]["safe_regex"]["regex"])
        for one in ("/v1/chat/completions", "/v1/embeddings?x=1"):
            assert generating.fullmatch(one)
        for one in ("/v1/batches", "/v1/files", "/v1/conversations", "/v1/chat/completions/x/messages"):
            assert not generating.fullmatch(one)


def test_the_edge_asks_connections_whether_somebody_is_there(tmp_path: Path) -> None:
    config = json.loads(write_edge(edge(tmp_path), both(0), tmp_path).read_text("utf-8"))
    for cluster in config["static_resources"]["clusters"]:
        (options,) = cluster["typed_extension_protocol_options"].values()
        pings = options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
        assert pings["interval"] == "2s" and pings["timeout"] == "6s"


needs_openssl = pytest.mark.needs(OPENSSL)


@needs_openssl
def test_an_authority_signs_names_that_others_can_check(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    one = authority.identity("edge")
    subprocess.run(
        ["openssl", "verify", "-CAfile", one.authority, one.certificate], check=True, capture_output=True
    )
    shown = subprocess.run(
        ["openssl", "x509", "-in", one.certificate, "-noout", "-ext", "subjectAltName,basicConstraints"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "URI:spiffe://deepwell/edge" in shown
    assert "CA:FALSE" in shown
    for key in (one.key, tmp_path / "ca" / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(one.certificate, one.key)


@needs_openssl
def test_an_authority_that_is_there_stays(tmp_path: Path) -> None:
    first = Authority(tmp_path).certificate.read_bytes()
    assert Authority(tmp_path).certificate.read_bytes() == first


@pytest.mark.needs(OPENSSL, ENVOY)
def test_envoy_accepts_the_configurations(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    front = Edge(Endpoint("127.0.0.1", 8080), authority.identity("edge"), tmp_path / "edge.sock")
    sidecar = Sidecar(Endpoint("127.0.0.1", 15006), 8000, authority.identity("current"), tmp_path / "s.sock")
    for file in (
        write_edge(front, both(0.5), tmp_path / "edge"),
        write_sidecar(sidecar, tmp_path / "s.json"),
    ):
        done = subprocess.run(
            [str(ENVOY.find()), "--mode", "validate", "-c", file], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
