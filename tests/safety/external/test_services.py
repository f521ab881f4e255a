"""External moderation: three services on local servers that check signatures, and every way in which they fail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from deepwell.errors import InvalidRequest
from deepwell.safety.external.aliyun import rpc_signature
from deepwell.safety.external.breaker import Breaker
from deepwell.safety.external.services import ExternalAnswer, ExternalServices
from deepwell.safety.external.shape import BadAnswer, Credentials, bounded
from deepwell.safety.external.tencent import tc3_authorization
from deepwell.safety.policy import External

KEY, SECRET = "the-key-of-the-service", "the-secret-of-the-service"
ENVIRONMENT = {"MOD_KEY": KEY, "MOD_SECRET": SECRET}
BAD = "something nasty 坏话"


class Service(BaseHTTPRequestHandler):
    """Speaks the three shapes, after a check of the signature; `script` holds what to do instead, a request each."""

    script: ClassVar[list[Any]] = []
    seen: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        step = self.script.pop(0) if self.script else None
        if callable(step):
            step()
        if isinstance(step, tuple):
            self.answer(*step)
        elif self.path == "/v1/moderations":
            self.openai(body)
        elif "x-tc-action" in self.headers:
            self.tencent(body)
        else:
            self.aliyun(body)

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def openai(self, body: bytes) -> None:
        if self.headers["authorization"] != f"Bearer {KEY}":
            return self.answer(401, {"error": {"message": "bad key"}})
        text = json.loads(body)["input"]
        self.seen.append(text)
        bad = "nasty" in text
        categories, scores = {"violence": bad, "hate": False}, {"violence": 0.9 if bad else 0.1, "hate": 0.2}
        result = {"flagged": bad, "categories": categories, "category_scores": scores}
        return self.answer(200, {"id": "modr-1", "model": "m", "results": [result]})

    def aliyun(self, body: bytes) -> None:
        fields = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        signature = fields.pop("Signature")
        # Written apart from the client's.
        pairs = sorted(
            (urllib.parse.quote(a, "-_.~"), urllib.parse.quote(b, "-_.~")) for a, b in fields.items()
        )
        query = urllib.parse.quote("&".join("=".join(pair) for pair in pairs), "-_.~")
        wanted = hmac.new((SECRET + "&").encode(), ("POST&%2F&" + query).encode(), "sha1").digest()
        if fields["AccessKeyId"] != KEY or base64.b64decode(signature) != wanted:
            return self.answer(400, {"Code": "SignatureDoesNotMatch", "Message": "no"})
        assert (fields["Action"], fields["Version"]) == ("TextModerationPlus", "2022-03-02")
        text = json.loads(fields["ServiceParameters"])["content"]
        self.seen.append(f"{fields['Service']}:{text}")
        label = (
            [{"Label": "violent_extremist", "Confidence": 92.5}]
            if "nasty" in text
            else [{"Label": "nonLabel"}]
        )
        return self.answer(
            200, {"Code": 200, "Message": "OK", "Data": {"RiskLevel": "high", "Result": label}}
        )

    def tencent(self, body: bytes) -> None:
        scheme, rest = self.headers["authorization"].split(" ", 1)
        parts = dict(one.split("=", 1) for one in rest.split(", "))
        key, date, service, end = parts["Credential"].split("/")
        names = parts["SignedHeaders"].split(";")
        values = {name: self.headers[name].strip() for name in names}
        values["x-tc-action"] = values["x-tc-action"].lower()
        head = "".join(f"{name}:{values[name]}\n" for name in names)
        canonical = "\n".join(
            ["POST", "/", "", head, parts["SignedHeaders"], hashlib.sha256(body).hexdigest()]
        )
        stamp = self.headers["x-tc-timestamp"]
        text = "\n".join(
            [scheme, stamp, f"{date}/{service}/{end}", hashlib.sha256(canonical.encode()).hexdigest()]
        )
        secret = ("TC3" + SECRET).encode()
        for one in (date, service, end):
            secret = hmac.new(secret, one.encode(), "sha256").digest()
        if key != KEY or hmac.new(secret, text.encode(), "sha256").hexdigest() != parts["Signature"]:
            error = {"Code": "AuthFailure.SignatureFailure", "Message": "no"}
            return self.answer(200, {"Response": {"Error": error, "RequestId": "1"}})
        content = base64.b64decode(json.loads(body)["Content"]).decode()
        self.seen.append(content)
        bad = "nasty" in content
        found = {"Suggestion": "Block" if bad else "Pass", "Label": "Abuse" if bad else "Normal", "Score": 98}
        return self.answer(
            200, {"Response": {**found, "DetailResults": [found] if bad else [], "RequestId": "1"}}
        )

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Service.script, Service.seen = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def external(kind: str, url: str, **settings: Any) -> External:
    whole = f"{url}/v1" if kind == "openai" else url
    made = {"kind": kind, "url": whole, "key_env": "MOD_KEY", "secret_env": "MOD_SECRET", "timeout_ms": 5000}
    return External.model_validate(made | settings)


async def asked(
    kind: str, url: str, text: str = BAD, *, environment: dict[str, str] | None = None, **settings: Any
) -> ExternalAnswer:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    services = ExternalServices(
        {"outside": external(kind, url, **settings)}, environment or ENVIRONMENT, sleep=sleep
    )
    try:
        return await services.check(text, "output")
    finally:
        await services.close()


KINDS = ("openai", "aliyun", "tencent")


@pytest.mark.parametrize(
    ("kind", "rule", "category", "score"),
    [
        ("openai", "external.outside.violence", "violence", 0.9),
        ("aliyun", "external.outside.violent_extremist", "violence", 0.925),
        ("tencent", "external.outside.abuse", "harassment", 0.98),
    ],
)
async def test_a_service_is_asked_and_its_labels_are_findings(
    url: str, kind: str, rule: str, category: str, score: float
) -> None:
    answer = await asked(kind, url)
    (finding,) = answer.findings
    assert (finding.rule, finding.category, finding.score) == (rule, category, score)
    assert (finding.start, finding.end) == (0, len(BAD))
    assert await asked(kind, url, "good 好话") == ExternalAnswer()
    assert Service.seen[0].endswith(BAD)


@pytest.mark.parametrize(("kind", "most"), [("aliyun", 2000), ("tencent", 10_000), ("openai", 20_000)])
async def test_a_long_text_is_sent_in_pieces(url: str, kind: str, most: int) -> None:
    text = "好" * most + "nasty"
    (finding,) = (await asked(kind, url, text)).findings
    assert (finding.start, finding.end) == (most, len(text))
    assert len(Service.seen) == 2


async def test_aliyun_has_services_for_requests_and_answers(url: str) -> None:
    services = ExternalServices({"a": external("aliyun", url, layers=["input", "output"])}, ENVIRONMENT)
    await services.check("a", "input")
    await services.check("b", "output")
    assert await services.check("c", "context") == ExternalAnswer()
    await services.close()
    assert Service.seen == ["llm_query_moderation:a", "llm_response_moderation:b"]
    assert services.wanted("input") and not services.wanted("context")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": "slow down"}, {"retry-after": "1"}),
        (500, b"oops"),
        (503, {}),
    ],
)
async def test_what_may_pass_is_asked_again(url: str, kind: str, failure: tuple[Any, ...]) -> None:
    Service.script = [failure]
    assert len((await asked(kind, url, retries=1)).findings) == 1
    Service.script = [failure, failure]
    assert (await asked(kind, url, retries=1)).failed == ("external.outside",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "failure",
    [
        (200, b"{"),
        (200, []),
        (200, {"results": [{}], "Code": 200, "Response": {}}),
        (200, b"[" * 100_000),
        (200, b" " * (2 << 20)),
        (302, {}, {"location": "http://127.0.0.1:1/"}),
        (400, {}),
        (403, {}),
    ],
)
async def test_what_will_not_pass_is_not_asked_again(url: str, kind: str, failure: tuple[Any, ...]) -> None:
    Service.script = [failure]
    answer = await asked(kind, url, retries=3)
    assert (answer.findings, answer.failed) == ((), ("external.outside",))
    assert Service.seen == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_key_or_signature_is_a_failure(url: str, kind: str) -> None:
    wrong = (
        {"MOD_KEY": KEY, "MOD_SECRET": "another"}
        if kind != "openai"
        else {"MOD_KEY": "another", "MOD_SECRET": "x"}
    )
    answer = await asked(kind, url, environment=wrong)
    assert answer.failed == ("external.outside",)
    assert Service.seen == []


async def test_errors_of_the_services_own_shape_are_failures(url: str) -> None:
    limited = {"Response": {"Error": {"Code": "RequestLimitExceeded", "Message": ""}, "RequestId": ""}}
    Service.script = [(200, limited)]
    assert (await asked("tencent", url, retries=1)).findings
    Service.script = [(200, {"Code": 588, "Message": "busy"})]
    assert (await asked("aliyun", url, retries=1)).findings
    Service.script = [(200, {"Code": 400, "Message": "bad"})]
    assert (await asked("aliyun", url, retries=1)).failed


@pytest.mark.parametrize(("declared", "field"), [("block", "failed"), ("allow", "passed_over")])
async def test_a_failure_is_what_the_policy_declares(url: str, declared: str, field: str) -> None:
    Service.script = [(500, {})]
    answer = await asked("openai", url, retries=0, on_failure=declared)
    assert getattr(answer, field) == ("external.outside",)
    assert len(answer.failed) + len(answer.passed_over) == 1


async def test_a_service_that_does_not_answer_is_given_up(url: str) -> None:
    release = threading.Event()
    Service.script = [release.wait]
    try:
        answer = await asked("openai", url, timeout_ms=50)
    finally:
        release.set()
    assert answer.failed == ("external.outside",)


async def test_a_service_that_is_not_there_is_a_failure() -> None:
    assert (await asked("openai", "http://127.0.0.1:1")).failed == ("external.outside",)


async def test_a_service_that_keeps_failing_is_not_asked_until_a_trial(url: str) -> None:
    now = [0.0]

    def breaker() -> Breaker:
        return Breaker(failures=2, open_s=10, now=lambda: now[0])

    services = ExternalServices({"a": external("openai", url, retries=0)}, ENVIRONMENT, breaker=breaker)
    Service.script = [(500, {})] * 3
    for _ in range(2):
        assert (await services.check(BAD, "output")).failed
    assert (await services.check(BAD, "output")).failed
    assert len(Service.script) == 1
    now[0] = 11
    assert (await services.check(BAD, "output")).failed
    assert Service.script == []
    assert (await services.check(BAD, "output")).failed
    now[0] = 22
    assert (await services.check(BAD, "output")).findings
    assert (await services.check(BAD, "output")).findings
    await services.close()


async def test_callers_that_go_and_texts_that_are_refused_open_no_breaker(url: str) -> None:
    services = ExternalServices(
        {"a": external("openai", url, retries=0)}, ENVIRONMENT, breaker=lambda: Breaker(failures=1)
    )
    Service.script = [(400, {})]
    assert (await services.check(BAD, "output")).failed
    release = threading.Event()
    Service.script = [release.wait]
    task = asyncio.create_task(services.check(BAD, "output"))
    while Service.script:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert (await services.check(BAD, "output")).findings
    await services.close()


@contextmanager
def every_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield


@pytest.mark.parametrize("kind", KINDS)
async def test_no_log_shows_a_key_a_secret_or_a_text(
    url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with every_log(caplog):
        await asked(kind, url)
        for failure in ((500, {"m": KEY}), (200, b"not json " + SECRET.encode()), (403, {"m": SECRET})):
            Service.script = [failure]
            await asked(kind, url, retries=0)
        await asked(kind, "http://127.0.0.1:1")
    told = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert "moderation service outside" in told
    for hidden in (KEY, SECRET, "nasty", base64.b64encode(BAD.encode()).decode()):
        assert hidden not in told
    assert KEY not in repr(Credentials(KEY, SECRET)) and SECRET not in repr(Credentials(KEY, SECRET))


@pytest.mark.parametrize(
    ("settings", "environment", "told"),
    [
        ({"kind": "openai"}, {}, "MOD_KEY"),
        ({"kind": "aliyun"}, {"MOD_KEY": KEY}, "MOD_SECRET"),
        ({"kind": "tencent", "secret_env": ""}, ENVIRONMENT, "secret_env"),
        ({"kind": "openai", "url": "http://example.com/v1"}, ENVIRONMENT, "https"),
        ({"kind": "openai", "url": "https://user:pass@example.com/v1"}, ENVIRONMENT, "key_env"),
        ({"kind": "aliyun", "url": "ftp://127.0.0.1"}, ENVIRONMENT, "https"),
    ],
)
def test_what_is_missing_is_named_before_the_first_request(
    settings: dict[str, Any], environment: dict[str, str], told: str
) -> None:
    settings = dict(settings)
    kind = settings.pop("kind")
    made = external(kind, settings.pop("url", "https://example.com"), **settings)
    with pytest.raises(InvalidRequest) as refused:
        ExternalServices({"outside": made}, environment)
    assert told in refused.value.fix
    assert "pass" not in str(refused.value)


def test_signatures_are_those_of_the_services_documents() -> None:
    """The examples in Aliyun's page on RPC signatures and in Tencent's on TC3-HMAC-SHA256."""
    parameters = {
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "Format": "XML",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "SignatureVersion": "1.0",
        "Timestamp": "2016-02-23T12:46:24Z",
        "Version": "2014-05-26",
    }
    assert rpc_signature("GET", parameters, "testsecret") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="
    body = b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'
    signed = {"content-type": "application/json; charset=utf-8", "host": "cvm.tencentcloudapi.com"}
    example = Credentials("AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE")
    header = tc3_authorization(example, "cvm", signed, body, 1551113065)
    assert header.endswith("Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168")


def test_a_trial_that_is_abandoned_leaves_the_breaker_open_for_the_next() -> None:
    now = [0.0]
    breaker = Breaker(failures=1, open_s=1, now=lambda: now[0])
    assert breaker.let_through()
    breaker.failed()
    assert not breaker.let_through()
    now[0] = 2
    assert breaker.let_through() and not breaker.let_through()
    breaker.abandoned()
    assert breaker.let_through()
    breaker.succeeded()
    assert not breaker.is_open


@pytest.mark.parametrize("score", ["NaN", "-NaN"])
def test_a_score_that_is_no_number_is_a_bad_answer(score: str) -> None:
    """It would be lower than every threshold of a policy."""
    with pytest.raises(BadAnswer):
        bounded(float(score))
    assert [bounded(one) for one in (-1.0, 0.5, float("inf"))] == [0.0, 0.5, 1.0]
