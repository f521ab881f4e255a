"""`Guard`: no source reaches a private address, however it is written, resolved or redirected to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.knowledge.sources.site import HOST, Reply, serving, to_loopback

from deepwell.errors import DeepwellError, SourceError
from deepwell.knowledge.sources.web.addresses import AllowList, reach
from deepwell.knowledge.sources.web.guard import Guard, GuardedTransport, RefusedAddress

PUBLIC = "93.184.215.14"

REFUSED_FORMS = [
    "ftp://example.com/a",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "//example.com/a",
    "example.com",
    "",
    "http://",
    "http:///path",
    "http://user@example.com/",
    "http://user:pw@example.com/",
    "http://:pw@example.com/",
    "http://example.com\\@evil.test/",
    "http://example.com /",
    "http://exa\tmple.com/",
    "http://example.com/\r\nHost: evil.test",
    "http://example.com:port/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.1/",
    "http://127.0.1/",
    "http://1.2.3.4.5/",
    "http://example.0x1/",
    "http://[::1/",
    "http://[not-an-address]/",
]

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "198.18.0.1", "::1", "fc00::1", "fd12:3456::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
]  # fmt: skip

NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.23", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "100.100.100.200", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254", "2001:db8::1",
    "2001::1", "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1:1::7f00:1", "::127.0.0.1", "100::1", "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED_FORMS)
def test_odd_urls_are_refused(url: str) -> None:
    with pytest.raises(RefusedAddress) as caught:
        Guard().check_url(url)
    assert caught.value.fix
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://example.com", "https://example.com:8443/a?b=c#d", "http://1.1.1.1/", "http://[2606:4700::1111]/",
     "https://例え.jp/", "http://EXAMPLE.com./"],
)  # fmt: skip
def test_ordinary_urls_pass(url: str) -> None:
    assert Guard().check_url(url).host


@given(st.text(max_size=80) | st.text(max_size=40).map("http://".__add__))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        parsed = Guard().check_url(text)
    except DeepwellError:
        return
    assert parsed.scheme in ("http", "https") and parsed.host and not parsed.userinfo


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_an_entry(address: str) -> None:
    assert reach(ip_address(address)) == "private"


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_reached(address: str) -> None:
    assert reach(ip_address(address)) == "never"


@pytest.mark.parametrize(
    "address", [PUBLIC, "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
def test_public_addresses_pass(address: str) -> None:
    assert reach(ip_address(address)) == "public"


@given(st.ip_addresses(v=4))
def test_no_spelling_in_ipv6_opens_an_ipv4_address(address: IPv4Address) -> None:
    number = int(address)
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert reach(IPv6Address(prefix | number)) == reach(address)
    assert reach(IPv6Address(0x2002 << 112 | number << 80)) == "never"


@given(st.ip_addresses())
def test_public_addresses_are_global_for_the_standard_library_too(address: IPv4Address | IPv6Address) -> None:
    inner = getattr(address, "ipv4_mapped", None)
    if reach(address) == "public" and inner is None:
        assert address.is_global and not address.is_multicast


async def resolved(
    answers: list[str], allowed: list[str] | None = None, host: str = "name.test"
) -> list[str]:
    async def resolver(_host: str, _port: int) -> list[str]:
        return answers

    return [str(one) for one in await Guard(allowed or [], resolver).addresses(host, 80)]


async def test_every_address_of_a_name_is_checked() -> None:
    assert await resolved([PUBLIC]) == [PUBLIC]
    for answers in (["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["169.254.169.254"], ["::1"]):
        with pytest.raises(RefusedAddress):
            await resolved(answers)
    with pytest.raises(SourceError, match="no address"):
        await resolved([])


async def test_a_name_without_addresses_is_an_error() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(SourceError, match=r"name\.test cannot be resolved: Name or service not known"):
        await Guard([], resolver).addresses("name.test", 80)


async def test_the_list_of_allowed_hosts_opens_private_ones() -> None:
    for allowed in (
        ["name.test"],
        ["NAME.test."],
        ["*.test"],
        ["10.0.0.1"],
        ["10.0.0.0/8"],
        ["other", "10.1.1.1/8"],
    ):
        assert await resolved(["10.0.0.1"], allowed) == ["10.0.0.1"]
    for allowed in ([], ["other.test"], ["*.name.test"], ["test"], ["10.0.0.2"], ["192.168.0.0/16"]):
        with pytest.raises(RefusedAddress, match=r"DEEPWELL_KNOWLEDGE_HOSTS=name\.test"):
            await resolved(["10.0.0.1"], allowed)
    assert await resolved(["::ffff:10.0.0.1"], ["10.0.0.0/8"]) == [str(ip_address("::ffff:10.0.0.1"))]


async def test_no_list_opens_metadata_services() -> None:
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200"):
        with pytest.raises(RefusedAddress, match="metadata"):
            await resolved([address], ["name.test", "0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("entry", ["http://wiki.internal", "wiki:80", "10.0.0.0/99", "", "*", "a b"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host"):
        AllowList([entry])
    with pytest.raises(RefusedAddress):
        Guard([entry])


async def test_the_connection_goes_to_the_checked_address() -> None:
    """A name that means another address at the next question (DNS rebinding) is asked once."""
    questions: list[str] = []

    async def rebinding(host: str, _port: int) -> list[str]:
        questions.append(host)
        return ["127.0.0.1"] if len(questions) == 1 else ["127.0.0.2"]

    with serving() as site:
        site.replies["/"] = Reply("hello")
        async with httpx.AsyncClient(transport=GuardedTransport(Guard(["127.0.0.1"], rebinding))) as client:
            answer = await client.get(site.url("/", "rebinding.test"))
            assert answer.text == "hello"
            assert questions == ["rebinding.test"]
            assert site.asked[0].headers["host"] == f"rebinding.test:{site.port}"


async def test_a_refused_host_is_not_connected_to() -> None:
    with serving() as site:
        site.replies["/"] = Reply("secret")
        for url in (
            site.url("/"),
            site.url("/", "127.0.0.1"),
            site.url("/", "localhost"),
            site.url("/", "[::1]"),
        ):
            async with httpx.AsyncClient(transport=GuardedTransport(Guard([], to_loopback))) as client:
                with pytest.raises(RefusedAddress):
                    await client.get(url)
        assert site.asked == []


async def test_a_connection_that_fails_is_an_error_of_httpx() -> None:
    with serving() as site:
        port = site.port
    transport = GuardedTransport(Guard([HOST], to_loopback))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://{HOST}:{port}/")


async def test_the_next_address_is_tried() -> None:
    async def two(_host: str, _port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]  # the site listens on the second alone

    with serving() as site:
        site.replies["/"] = Reply("hello")
        async with httpx.AsyncClient(transport=GuardedTransport(Guard([HOST], two))) as client:
            assert (await client.get(site.url("/"))).text == "hello"
