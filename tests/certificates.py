"""Clients of httpx that trust the usual authorities: their certificates are read once a process."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any


def remembered(create: Callable[..., ssl.SSLContext]) -> Callable[..., ssl.SSLContext]:
    """Makes one context for each place that the environment names. Others get what they bring."""
    known: dict[Any, ssl.SSLContext] = {}

    def create_ssl_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None:
            return create(verify=verify, cert=cert, trust_env=trust_env)
        places = (
            (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")) if trust_env else (None, None)
        )
        if places not in known:
            known[places] = create(verify=True, trust_env=trust_env)
        return known[places]

    return create_ssl_context
