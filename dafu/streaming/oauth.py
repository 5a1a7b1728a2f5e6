"""Bearer tokens for brokers that ask for them (SASL/OAUTHBEARER, RFC 7628).

They come from a token endpoint, to which the client shows its id and secret (the client
credentials of OAuth 2.0, RFC 6749 section 4.4), or from a file that somebody else keeps up to
date. A broker may end a connection when the token's time is over; the client opens another one
then, with a token of its day.
"""

from __future__ import annotations

import asyncio
import base64
import time
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus, urlsplit
from urllib.request import url2pathname

import aiohttp
import msgspec
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError
from msgspec import MsgspecError, Struct

__all__ = ["TokenProvider", "TokenSource", "provider_of"]

TIMEOUT_SECONDS: Final = 10.0
USED_UP: Final = 0.8
"""Part of a token's time after which a connection gets a new one."""
_SHOWN: Final = 200


class TokenSource(Struct, frozen=True):
    """Where tokens come from, and what goes to the broker beside them.

    Parameters
    ----------
    url
        Of a token endpoint, or file:///... of a file that holds nothing else.
    client_id, secret
        Shown to an endpoint.
    scope
        Asked for there, if any.
    extensions
        Of the SASL exchange (RFC 7628 section 3.1), as some services want them: name=value.
    """

    url: str
    client_id: str | None = None
    secret: str | None = None
    scope: str | None = None
    extensions: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"TokenSource({self.url!r})"  # and no secret


class _Answer(Struct):
    """What counts of an endpoint's answer. Some write numbers as text."""

    access_token: str
    expires_in: float = 0.0


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Gives connections a token that holds; one endpoint's token serves all until it is old.

    May be asked in several event loops. Two that ask at once may each fetch one.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._token = ""
        self._renew_at = float("-inf")

    def extensions(self) -> dict[str, str]:
        """What goes to the broker beside the token."""
        pairs = (extension.partition("=") for extension in self._source.extensions)
        return {name: value for name, _, value in pairs}

    async def token(self) -> str:
        """A token.

        Raises
        ------
        KafkaConnectionError
            If there is none to be had; clients try again.
        """
        url = self._source.url
        try:
            if url.startswith("file:"):
                return await asyncio.to_thread(_from_file, url)
            if time.monotonic() >= self._renew_at:
                asked = time.monotonic()
                self._token, seconds = await self._fetched()
                self._renew_at = asked + USED_UP * seconds
        except (OSError, ValueError, MsgspecError, aiohttp.ClientError) as exc:
            why = str(exc) or type(exc).__name__
            raise KafkaConnectionError(f"no token from {url}: {why}") from exc
        return self._token

    async def _fetched(self) -> tuple[str, float]:
        """A token of the endpoint's, and the seconds that it holds."""
        source = self._source
        form = {"grant_type": "client_credentials"}
        if source.scope is not None:
            form["scope"] = source.scope
        # RFC 6749 section 2.3.1: encoded like a form before they become user and password.
        login = f"{quote_plus(source.client_id or '')}:{quote_plus(source.secret or '')}"
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            # A redirect would take the secret elsewhere.
            session.post(source.url, data=form, headers=headers, allow_redirects=False) as response,
        ):
            answer = await response.read()
            if response.status != 200:
                said = answer[:_SHOWN].decode(errors="replace")
                raise ValueError(f"{response.status} {response.reason}: {said}")
        given = msgspec.json.decode(answer, type=_Answer, strict=False)
        return _sound(given.access_token), given.expires_in


def _from_file(url: str) -> str:
    return _sound(Path(url2pathname(urlsplit(url).path)).read_text(encoding="ascii").strip())


def _sound(token: str) -> str:
    """What ends the token, or is none, would be taken for other parts of the message."""
    if not token or any(not "!" <= character <= "~" for character in token):
        raise ValueError("it is empty, or has characters that no token has")
    return token


@lru_cache(maxsize=8)
def provider_of(source: TokenSource) -> TokenProvider:
    """The one provider of a source in this process, so that all clients share its token."""
    return TokenProvider(source)
