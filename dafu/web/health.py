"""Whether the worker on this machine lives, asked where its settings say that it listens.

    python -m dafu.web.health

Ends with 0 if it does; else says why and ends with 1. For containers, which ask every few seconds:
it imports neither kernels nor models, and of this package nothing.
"""

from __future__ import annotations

import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final

from dafu.settings import SettingsError, Web, load_settings

__all__ = ["live_status", "main"]

SECONDS: Final = 2.0
_ALL_ADDRESSES: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def live_status(settings: Web) -> int:
    """The status of the answer to ``GET /health/live``.

    Raises
    ------
    OSError, http.client.HTTPException
        If there is none.
    """
    host = _ALL_ADDRESSES.get(settings.host, settings.host)
    connection = HTTPConnection(host, settings.port, timeout=SECONDS)
    if settings.tls_cert is not None:
        # Its certificate is for the names that others use, and nothing is told to it.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(host, settings.port, timeout=SECONDS, context=context)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


def main() -> None:
    """Ask, and end with what is to be told to the container."""
    try:
        status = live_status(load_settings().web)
    except (SettingsError, OSError, HTTPException) as exc:
        sys.exit(f"the worker can not be asked: {exc or type(exc).__name__}")
    if status != 200:
        sys.exit(f"the worker answers with {status}")


if __name__ == "__main__":
    main()
