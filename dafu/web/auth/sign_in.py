"""Signing in: a password or a key for a session or a token, and not too often."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from dafu.web.audit import Audit
from dafu.web.auth import passwords
from dafu.web.auth.identities import (
    BadCredentialError,
    Identities,
    Subject,
    principal_of,
    subject_of,
)
from dafu.web.auth.records import digest
from dafu.web.auth.throttle import Throttle
from dafu.web.problems import RefusedError, problem, unauthorized

__all__ = ["SignIn", "SignInError"]

_MOST_AT_ONCE: Final = 16
"""Passwords that wait to be checked; each takes some 20 ms."""

_WRONG: Final = "the name or the password is not right"


class SignInError(RefusedError):
    """A sign-in that failed; `message` is for people, `retry_after` the seconds to wait, if any."""

    def __init__(self, response: web.Response, message: str, retry_after: int = 0) -> None:
        super().__init__(response)
        self.message = message
        self.retry_after = retry_after


class SignIn:
    """Checks who signs in.

    Parameters
    ----------
    identities : Identities
    audit : Audit
    address_of : callable
        Where a request came from.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        identities: Identities,
        audit: Audit,
        *,
        address_of: Callable[[web.BaseRequest], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identities = identities
        self._audit = audit
        self._address_of = address_of
        self._clock = clock
        self._users = Throttle()
        # An address may be an office's: more failures are free.
        self._addresses = Throttle(free=20)
        self._waiting = asyncio.Semaphore(_MOST_AT_ONCE)

    async def by_password(self, user: str, password: str, request: web.Request) -> Subject:
        """The user of this name, if the password is his.

        Raises
        ------
        SignInError
            If it is not, or there is no such user, which looks alike; or it was tried too often.
        """
        self._begin(user, request)
        record = self._identities.file.records().user(user)
        if self._waiting.locked():
            raise _later(1, "too many sign in at once")
        async with self._waiting:
            kept = None if record is None else record.password
            right = await passwords.check_apart(kept, password)
        if record is None or not right or record.disabled:
            raise self._refused(user, request, _WRONG)
        return self._let_in(subject_of(record), user, request)

    async def by_key(self, key: str, request: web.Request) -> Subject:
        """Whose key this is; raises likewise."""
        self._begin("", request)
        try:
            subject = self._identities.of_key(key)
        except BadCredentialError as exc:
            raise self._refused("", request, str(exc)) from None
        return self._let_in(subject, "", request)

    async def by_secret(self, client: str, secret: str, request: web.Request) -> Subject:
        """The client of this name, if the secret is its own; raises likewise."""
        self._begin(f"client:{client}", request)
        record = self._identities.file.records().client(client)
        kept = digest("") if record is None else record.sha256
        right = hmac.compare_digest(kept, digest(secret))
        if record is None or not right or record.disabled:
            raise self._refused(f"client:{client}", request, "no such client, or not its secret")
        return self._let_in(subject_of(record), f"client:{client}", request)

    def _begin(self, name: str, request: web.Request) -> None:
        """Count the attempt as failed until it has not: many at once are as many failures."""
        now, address = self._clock(), self._address_of(request)
        wait = self._addresses.wait(address, now)
        if name:
            wait = max(wait, self._users.wait(name, now))
        if wait > 0:
            self._audit.note(
                request, None, "sign_in", name, {"why": "too often"}, outcome="refused", who=name
            )
            raise _later(math.ceil(wait), "too many failed attempts")
        self._addresses.fail(address, now)
        if name:
            self._users.fail(name, now)

    def _refused(self, name: str, request: web.Request, why: str) -> SignInError:
        self._audit.note(request, None, "sign_in", name, outcome="refused", who=name)
        return SignInError(unauthorized(why, "invalid_token"), why)

    def _let_in(self, subject: Subject, name: str, request: web.Request) -> Subject:
        self._addresses.forgive(self._address_of(request))
        if name:
            self._users.succeed(name)
        self._audit.note(request, principal_of(subject, "session"), "sign_in", subject.name)
        return subject


def _later(seconds: int, why: str) -> SignInError:
    message = f"{why}: try again in {seconds} s"
    headers = {"Retry-After": str(seconds)}
    return SignInError(problem(429, message, headers=headers), message, seconds)
