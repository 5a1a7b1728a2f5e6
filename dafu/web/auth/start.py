"""What has to hold before a worker serves anybody: nothing is open that nobody has opened."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from dafu.errors import DafuError
from dafu.settings import Settings
from dafu.web.auth.auth import Auth
from dafu.web.auth.records import AuthRecords, KeyRecord, digest, new_key
from dafu.web.surroundings import is_loopback

__all__ = ["FIRST_KEY", "ExposedError", "prepare"]

FIRST_KEY: Final = "first-admin"
"""The name of the key that a first run makes."""


class ExposedError(DafuError):
    """The settings would open the server to a network without what that needs."""


def prepare(settings: Settings, auth: Auth) -> None:
    """See that the server may be started, and make the first key where nobody has one.

    Raises
    ------
    ExposedError
        If others can reach it, and it speaks no TLS or nobody could be let in.
    AuthFileError
        If the file or the signing key can not be read or written.
    """
    host, loopback = settings.web.host, is_loopback(settings.web.host)
    if not loopback and not auth.secure:
        raise ExposedError(
            f"web.host is {host}, which others can reach, and keys would travel in clear text: set "
            "web.tls_cert and web.tls_key (DAFU_TLS_CERT, DAFU_TLS_KEY), or web.behind_proxy "
            "(DAFU_BEHIND_PROXY=true) if a proxy of yours speaks TLS before it and nobody else "
            "reaches this port"
        )
    known = auth.identities.anybody or auth.access.idp_issuer is not None
    if not known and not loopback:
        raise ExposedError(
            f"web.host is {host}, which others can reach, and nobody has a key: make one with "
            "`dafu keys add NAME --role admin`, or set DAFU_ADMIN_KEY"
        )
    auth.signer.prepare()
    if not known:
        _first_key(auth)


def _first_key(auth: Auth) -> None:
    key = new_key()
    record = KeyRecord(FIRST_KEY, digest(key), "admin")
    if auth.identities.file.create(AuthRecords(keys=(record,))):
        _say(key, auth.access.file, auth.web.port)


def _say(key: str, file: Path, port: int) -> None:
    """To standard output as it was when the process began: Faust makes a log of the other."""
    text = (
        "\n  Nobody could call this worker yet, so it made a key that may do everything. It is\n"
        f"  shown this once, and kept as a hash in {file}:\n\n"
        f"      {key}\n\n"
        f'  curl -H "Authorization: Bearer {key}" http://127.0.0.1:{port}/v1/me\n\n'
    )
    out = sys.__stdout__
    if out is not None:
        out.write(text)
        out.flush()
