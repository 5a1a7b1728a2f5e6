"""All of who calls in one place, for the server and for the pages that sign people in and out."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from dafu.settings import Settings
from dafu.web.audit import Audit, Publish
from dafu.web.auth.file import AuthFile
from dafu.web.auth.forwarded import WORD, Words, address_of
from dafu.web.auth.identities import Identities
from dafu.web.auth.sessions import Cookies
from dafu.web.auth.sign_in import SignIn, SignInError
from dafu.web.auth.signing import Signer
from dafu.web.endpoints import Call

__all__ = ["Auth", "SignInError"]


class Auth:
    """Keys, users, tokens and sessions of a worker.

    Parameters
    ----------
    settings : Settings
    publish : callable
        Writes to the topic `audit`.
    worker : str
        Its name.
    clock : callable
        Epoch seconds.

    Attributes
    ----------
    audit : Audit
    identities : Identities
    cookies : Cookies
    secure : bool
        Whether browsers reach this server by TLS, its own or a proxy's.
    """

    def __init__(
        self,
        settings: Settings,
        publish: Publish,
        *,
        worker: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        access, self.web = settings.auth, settings.web
        self.access = access
        self.secure = self.web.tls_cert is not None or self.web.behind_proxy
        self.signer = Signer(access.signing_key_file, f"dafu:{settings.app_id}")
        self.identities = Identities(
            AuthFile(access.file),
            self.signer,
            admin_key=self.web.admin_key,
            token_seconds=access.token_minutes * 60.0,
            session_seconds=access.session_hours * 3600.0,
            clock=clock,
        )
        self.words = Words(self.signer, clock)
        self.cookies = Cookies(secure=self.secure, seconds=self.identities.session_seconds)
        self.audit = Audit(publish, worker=worker, address_of=self.address_of, clock=clock)
        self.signing_in = SignIn(self.identities, self.audit, address_of=self.address_of)

    def address_of(self, request: web.BaseRequest) -> str:
        """Where a request came from."""
        return address_of(request, behind_proxy=self.web.behind_proxy)

    def vouch(self, request: web.BaseRequest) -> dict[str, str]:
        """Headers by which another worker knows that this one has let a request in."""
        return {WORD: self.words.give(request, self.address_of(request))}

    async def sign_in(self, user: str, password: str, request: web.Request) -> str:
        """A session for a user; give it to `set_session`.

        Raises
        ------
        SignInError
            If name and password do not fit, or it was tried too often; `message` is for people.
        """
        subject = await self.signing_in.by_password(user, password, request)
        return self.identities.session(subject)

    async def sign_in_with_key(self, key: str, request: web.Request) -> str:
        """A session for whoever has a key; raises likewise."""
        return self.identities.session(await self.signing_in.by_key(key, request))

    def set_session(self, response: web.StreamResponse, session: str) -> None:
        """Have the browser keep a session."""
        self.cookies.set(response, session)

    def sign_out(self, call: Call, response: web.StreamResponse) -> None:
        """Have the browser forget its session."""
        self.cookies.clear(response)
        if call.principal is not None:
            self.audit.note(call.request, call.principal, "sign_out", call.principal.name)
