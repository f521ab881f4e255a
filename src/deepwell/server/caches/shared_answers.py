"""`SharedAnswers`: whole answers in Valkey, for all servers that run the same weights.

A key is the hash of all that shapes an answer and of its tenant. So Valkey learns neither questions nor tenants, but it
holds the answers. An answer is stored behind a MAC, whose key is another hash of the same. So Valkey can neither exchange
answers, nor alter one, nor make one up, unless whoever writes to it knows the tenant, the weights and the whole question.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
from typing import Any

import msgspec

from deepwell.dialogue.completion import Update
from deepwell.server.caches.response_cache import AnswerKey
from deepwell.server.valkey import ValkeyClient, ValkeyUnavailable

__all__ = ["SharedAnswers", "forget_answers"]

_MAC_BYTES = 16
_LARGEST_BYTES = 256 << 10  # a larger one would keep Valkey, and all that wait for it, busy
_FETCH = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"
_FORGET = """
local found = redis.call('SCAN', ARGV[1], 'MATCH', 'deepwell:answer2:*', 'COUNT', 500)
for _, key in ipairs(found[2]) do redis.call('UNLINK', key) end
return {found[1], #found[2]}
"""
_log = logging.getLogger("deepwell.server")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Update, ...]).decode


class SharedAnswers:
    """An `Exchange` of answers that expire after `ttl_s` seconds."""

    def __init__(self, valkey: ValkeyClient, ttl_s: float) -> None:
        self._valkey = valkey
        self._ttl_s = ttl_s

    async def fetch(self, key: AnswerKey) -> tuple[tuple[Update, ...], float] | None:
        """Returns an answer and the seconds until it expires; None if there is none, or if Valkey does not answer."""
        try:
            found, left_s = await self._valkey.run(
                lambda client: client.eval(_FETCH, 1, _name(key)), _fetched
            )
        except ValkeyUnavailable:
            return None
        if found is None:
            return None
        mac, data = found[:_MAC_BYTES], found[_MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(key, data)):
            _log.warning("Valkey holds an answer that no server gave to this question: it is not used")
            return None
        try:
            return _decode(data), left_s
        except msgspec.DecodeError as error:  # of a server of another version
            _log.warning("Valkey holds an answer that cannot be read: %s", error)
            return None

    async def offer(self, key: AnswerKey, updates: tuple[Update, ...]) -> None:
        """Offers an answer to the other servers, unless it is too large."""
        data = _encode(updates)
        if len(data) > _LARGEST_BYTES:
            return
        lives_ms = math.ceil(min(self._ttl_s, 10**9) * 1000)
        try:
            await self._valkey.run(
                lambda client: client.set(_name(key), _mac(key, data) + data, px=lives_ms), bool
            )
        except ValkeyUnavailable:
            return


def _fetched(found: Any) -> tuple[bytes | None, float]:
    """Returns the stored bytes, if there are any, and the seconds that they live.

    Raises:
        TypeError: the script does not answer so.
    """
    data, left_ms = found
    if not (data is None or isinstance(data, bytes)) or not isinstance(left_ms, int):
        raise TypeError("an answer is bytes, and its time a number")
    return data, max(0.0, left_ms / 1000)


def _mac(key: AnswerKey, data: bytes) -> bytes:
    secret = hashlib.blake2b(_encode(key), digest_size=32, person=b"deepwell-answer").digest()
    return hashlib.blake2b(data, key=secret, digest_size=_MAC_BYTES).digest()


def _name(key: AnswerKey) -> str:
    return f"deepwell:answer2:{hashlib.sha256(_encode(key)).hexdigest()}"


async def forget_answers(valkey: ValkeyClient) -> int:
    """Deletes the answers of all tenants from Valkey, some at a time, and returns their number.

    Their names do not tell whose they are. They are a cache: what is asked again is answered again.

    Raises:
        ValkeyUnavailable: Valkey does not answer.
    """
    cursor, total = b"0", 0
    while True:
        place = cursor
        cursor, count = await valkey.run(lambda client, at=place: client.eval(_FORGET, 0, at), _forgotten)
        total += count
        if cursor == b"0":
            return total


def _forgotten(found: Any) -> tuple[bytes, int]:
    """Returns the place to go on at, and the number of answers deleted.

    Raises:
        TypeError: the script does not answer so.
    """
    cursor, count = found
    if not isinstance(cursor, bytes) or not isinstance(count, int):
        raise TypeError("a place is bytes, and a count a number")
    return cursor, count
