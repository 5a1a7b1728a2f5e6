"""Settings of the HTTP server: where it listens, what it takes, and whose word it trusts.

Types alone; `dafu.settings.loading` reads them.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from dafu.settings.over_http import OverHttp

__all__ = ["Access", "Web"]

_Rate = Annotated[
    int, Meta(ge=0, le=100_000_000, description="requests a minute, 0 or more; 0: no limit")
]
_Secret = Annotated[str, Meta(min_length=32, max_length=512, description="32 to 512 characters")]
_RedisUrl = Annotated[
    str, Meta(pattern=r"\A(?:rediss?|unix)://\S{1,2000}\Z", description="redis://host:port/db")
]
_Audience = Annotated[str, Meta(min_length=1, max_length=500, description="1 to 500 characters")]
_Url = Annotated[str, Meta(pattern=r"\Ahttps?://\S{1,2000}\Z", description="an http(s) URL")]
_Host = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._:\[\]-]{1,253}\Z")]
_Origin = Annotated[str, Meta(pattern=r"\Ahttps?://[A-Za-z0-9._:\[\]-]{1,253}\Z")]
_RoleOf = Annotated[
    str, Meta(pattern=r"\A[^=,\s][^=,]{0,199}=(?:viewer|analyst|model_owner|engineer|admin)\Z")
]
_Claim = Annotated[
    str,
    Meta(
        pattern=r"\A\S{1,200}\Z", description="the name of a claim; dots lead into objects within"
    ),
]


class Web(OverHttp, frozen=True, forbid_unknown_fields=True):
    """Where the HTTP server listens and what it takes. Secrets come from the environment."""

    host: Annotated[str, Meta(pattern=r"\A\S{1,253}\Z", description="a host name or address")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=1, le=65_535, description="a port from 1 to 65535")] = 6066
    advertised_url: _Url | None = None
    """Where the other workers reach this server; None: at `host` and `port`, or by the machine's
    name where it listens on all addresses."""
    admin_key: _Secret | None = None
    """A key that may do everything; for programs that start workers and then talk to them."""
    tls_cert: Path | None = None
    """The server's certificate and those between it and the root, PEM; with it, TLS is spoken."""
    tls_key: Path | None = None
    """Its private key, PEM; None: in the certificate's file."""
    behind_proxy: bool = False
    """A proxy of ours speaks TLS in front of this server, and tells who asks: the last address in
    X-Forwarded-For is believed."""
    allowed_hosts: Annotated[
        tuple[_Host, ...], Meta(description="host names; `.example.com` takes all below it")
    ] = ()
    """Names that requests may come under. None given: those of loopback on loopback, any else."""
    cors_origins: Annotated[
        tuple[_Origin, ...], Meta(description="origins such as https://pay.example.com")
    ] = ()
    """Origins whose pages may call the API from a browser."""
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 30, description="bytes from 1024 to 1073741824")
    ] = 16 << 20
    """No endpoint takes a longer body; most take less."""
    request_seconds: Annotated[
        float, Meta(ge=1.0, le=3600.0, description="seconds from 1 to 3600")
    ] = 30.0
    """An answer that takes longer is given up; streams of events are not."""
    reads_per_minute: _Rate = 1200
    scores_per_minute: _Rate = 60_000
    changes_per_minute: _Rate = 120
    sign_ins_per_minute: _Rate = 30
    """Of each client, by what is asked; sign-ins and requests for tokens by address."""
    redis_url: _RedisUrl | None = None
    """Where the workers share rate limits and decisions; None: each keeps its own."""

    @property
    def longest_wait_ms(self) -> int:
        """How long a request may wait for its decision so that there is still time to answer."""
        return int(self.request_seconds * 900)

    @property
    def url(self) -> str:
        """Where the other workers reach this server."""
        if self.advertised_url is not None:
            return self.advertised_url.rstrip("/")
        host = socket.getfqdn() if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    def __repr__(self) -> str:
        hidden = {"admin_key", "redis_url"}
        members = ", ".join(
            f"{name}='***'"
            if name in hidden and getattr(self, name) is not None
            else f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
        )
        return f"Web({members})"


class Access(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose keys, passwords and tokens are good."""

    file: Path = Path(".dafu-auth/auth.yaml")
    """Keys, users and clients, all of them hashed; `dafu keys`, `users` and `clients` write it."""
    signing_key: Path | None = None
    """The private key that tokens and sessions are signed with, PEM; made if it is missing.
    None: `signing.pem` beside the file. Workers that share sessions share it."""
    token_minutes: Annotated[
        float, Meta(ge=1.0, le=1440.0, description="minutes from 1 to 1440")
    ] = 15.0
    """How long access tokens are good."""
    session_hours: Annotated[float, Meta(ge=0.1, le=168.0, description="hours from 0.1 to 168")] = (
        12.0
    )
    """How long a sign-in is good, whatever happens meanwhile."""
    idp_issuer: _Url | None = None
    """The identity provider whose tokens are good as well; its `iss`."""
    idp_audience: _Audience | None = None
    """What its tokens for dafu have as `aud`."""
    idp_jwks_url: _Url | None = None
    """Where its public keys are."""
    idp_name_claim: _Claim = "sub"
    idp_roles_claim: _Claim = "roles"
    idp_roles: Annotated[
        tuple[_RoleOf, ...], Meta(description="pairs such as fraud-team=analyst")
    ] = ()
    """Which of its roles or groups is which of ours; none given: those with our names."""

    @property
    def signing_key_file(self) -> Path:
        """Where the signing key is."""
        return self.signing_key or self.file.with_name("signing.pem")
