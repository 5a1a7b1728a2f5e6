"""TLS of the HTTP server, and of what workers ask each other."""

from __future__ import annotations

import ssl

from dafu.errors import DafuError
from dafu.settings import Web

__all__ = ["TLSError", "client_context", "server_context"]


class TLSError(DafuError):
    """Certificate or key can not be used."""


def server_context(settings: Web) -> ssl.SSLContext | None:
    """What the server speaks TLS with; None: it does not. TLS 1.2 or later.

    Raises
    ------
    TLSError
        If certificate and key can not be read, or do not belong together.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With None it would ask at a terminal for the password of a key that has one.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as exc:
        raise TLSError(
            f"web.tls_cert {settings.tls_cert} and web.tls_key {settings.tls_key} can not be "
            f"used: {exc}"
        ) from exc
    return context


def client_context(settings: Web) -> ssl.SSLContext | None:
    """Whom a worker trusts to be another worker: who has a certificate that the system trusts, or
    one that this worker's own leads to; None without TLS."""
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context()
    context.load_verify_locations(settings.tls_cert)
    return context
