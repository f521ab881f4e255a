"""Settings of the command line as a client: the server that it talks to."""

from __future__ import annotations

from pydantic import Field, SecretStr

from deepwell.settings.section import Section

__all__ = ["ClientSettings"]


class ClientSettings(Section):
    """The section of the client: the server that `ask` and `chat` talk to, and the key that it asks for."""

    url: str | None = Field(
        None,
        description="Server that `ask` and `chat` talk to, such as http://10.0.0.5:8000; unset: the one at host and port.",
    )
    api_key: SecretStr | None = Field(
        None, description="Key that `ask` and `chat` send; unset: the first of api_keys."
    )
