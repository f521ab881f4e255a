"""`SharedAnswers`: whole answers in Valkey, for all servers that run the same weights.

A key is the hash of all that shapes an answer and of its tenant. So Valkey learns neither questions nor tenants, but it
holds the answers. Its data is trusted: whoever may write to it may say anything in the model's name.
"""

from __future__ import annotations

import hashlib
import logging
import math

import msgspec

from deepwell.dialogue.completion import Update
from deepwell.server.caches.response_cache import AnswerKey
from deepwell.server.valkey import ValkeyClient, ValkeyUnavailable

__all__ = ["SharedAnswers"]

_LARGEST_BYTES = 256 << 10  # a larger one would keep Valkey, and all that wait for it, busy
_FETCH = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"
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
            found, left_ms = await self._valkey.run(lambda client: client.eval(_FETCH, 1, _name(key)))
        except ValkeyUnavailable:
            return None
        if found is None:
            return None
        try:
            return _decode(found), max(0.0, left_ms / 1000)
        except msgspec.DecodeError as error:
            _log.warning("Valkey holds an answer that cannot be read: %s", error)
            return None

    async def offer(self, key: AnswerKey, updates: tuple[Update, ...]) -> None:
        """Offers an answer to the other servers, unless it is too large."""
        data = _encode(updates)
        if len(data) > _LARGEST_BYTES:
            return
        lives_ms = math.ceil(min(self._ttl_s, 10**9) * 1000)
        try:
            await self._valkey.run(lambda client: client.set(_name(key), data, px=lives_ms))
        except ValkeyUnavailable:
            return


def _name(key: AnswerKey) -> str:
    return f"deepwell:answer:{hashlib.sha256(_encode(key)).hexdigest()}"
