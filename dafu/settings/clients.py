"""Settings of what a worker is a client of, where it says who it is: brokers, a schema registry.

Types, and the certificates that they name; `dafu.settings.loading` reads them.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, structs

from dafu.settings.problems import Problem, SettingsError

__all__ = ["LOOPBACK", "SchemaRegistry", "Security"]

LOOPBACK: Final = r"(127\.0\.0\.1|\[::1\]|localhost)"
"""Hosts in URLs to which a secret may go in clear, as a regular expression."""

_TokenUrl = Annotated[
    str,
    Meta(
        pattern=rf"\A(https://|http://{LOOPBACK}[:/]|file:///)\S+\Z",
        description="an https URL (http on loopback only), or file:///path",
    ),
]
_Extension = Annotated[str, Meta(pattern=r"\A[A-Za-z]+=[ -~]+\Z")]
_RegistryUrl = Annotated[str, Meta(pattern=r"\Ahttps?://[^\s@,?#]{1,2000}\Z")]
_User = Annotated[
    str, Meta(pattern=r"\A[^:\x00-\x1f]{1,500}\Z", description="a name without a colon")
]


class _TlsClient(Struct, frozen=True, forbid_unknown_fields=True):
    """What connections of a client are encrypted with, and what it shows for itself."""

    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: str | None = None

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={'***' if name.endswith('password') and value else repr(value)}"
            for name, value in structs.asdict(self).items()
        )
        return f"{type(self).__name__}({shown})"

    def _context(self, group: str) -> ssl.SSLContext:
        key, allowed = "ssl_cafile", "a PEM file of CA certificates"
        cafile = None if self.ssl_cafile is None else str(self.ssl_cafile)
        try:
            context = ssl.create_default_context(cafile=cafile)
            if self.ssl_certfile is not None:
                key, allowed = "ssl_certfile", "certificate and key that belong together, PEM"
                # With None it would ask at a terminal for the password of a key that has one.
                password = self.ssl_key_password or ""
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
        except OSError as exc:
            what = f"can not be loaded: {exc}"
            origin = str(getattr(self, key))
            raise SettingsError([Problem(f"{group}.{key}", origin, what, allowed)]) from exc
        return context


class Security(_TlsClient, frozen=True, forbid_unknown_fields=True):
    """How to talk to brokers that ask who is there. Secrets come from the environment."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "PLAIN"
    sasl_user: str | None = None
    """With OAUTHBEARER the client's id, and the password is its secret."""
    sasl_password: str | None = None
    oauth_token_url: _TokenUrl | None = None
    oauth_scope: str | None = None
    oauth_extensions: Annotated[tuple[_Extension, ...], Meta(description="name=value,...")] = ()

    @property
    def uses_sasl(self) -> bool:
        """Whether clients log in."""
        return self.protocol.startswith("SASL_")

    @property
    def uses_oauth(self) -> bool:
        """Whether they do so with tokens."""
        return self.uses_sasl and self.sasl_mechanism == "OAUTHBEARER"

    @property
    def uses_ssl(self) -> bool:
        """Whether connections are encrypted."""
        return self.protocol.endswith("SSL")

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for an aiokafka client, producer or consumer.

        Raises
        ------
        SettingsError
            When the CA file can not be read as certificates, or certificate and key can not be
            used.
        """
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.uses_ssl:
            options["ssl_context"] = self._context("security")
        if self.uses_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
        if self.uses_oauth:
            from dafu.streaming.oauth import TokenSource, provider_of

            source = TokenSource(
                self.oauth_token_url or "",
                self.sasl_user,
                self.sasl_password,
                self.oauth_scope,
                tuple(self.oauth_extensions),
            )
            options["sasl_oauth_token_provider"] = provider_of(source)
        elif self.uses_sasl:
            options["sasl_plain_username"] = self.sasl_user
            options["sasl_plain_password"] = self.sasl_password
        return options


class SchemaRegistry(_TlsClient, frozen=True, forbid_unknown_fields=True):
    """Where the schemas of payments are. Secrets come from the environment."""

    urls: Annotated[
        tuple[_RegistryUrl, ...],
        Meta(description="http(s) URLs, without a user, a password or a query"),
    ] = ()
    """Of one registry; the next one is asked where one does not answer."""
    user: _User | None = None
    password: str | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """What connections over https are made with.

        Raises
        ------
        SettingsError
            As `Security.client_options` does.
        """
        return self._context("schema_registry")
