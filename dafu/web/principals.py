"""Who calls, and what he may do: roles, the permissions they give, and callers.

Pure. Every endpoint names the one permission that it takes; a role is a set of permissions, and a
credential may be narrowed to fewer than its role has, for a checkout that may score and nothing
else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

__all__ = ["ROLES", "Permission", "Principal", "Role"]


class Permission(StrEnum):
    """What an endpoint may ask for."""

    READ = "read"
    """Decisions, users, merchants, rings, rules, models, the state of the worker."""
    PII = "pii"
    """See addresses, devices, cards, mailboxes and user agents unmasked."""
    SCORE = "score"
    """Have transactions decided."""
    LABEL = "label"
    """Say what became known of transactions."""
    ANALYZE = "analyze"
    """Have whole files scored, and try rules on what was decided."""
    LISTS = "lists"
    """Change the lists of who is allowed, denied or watched."""
    RULES = "rules"
    """Change the rules."""
    MODELS = "models"
    """Deploy, promote and roll back models."""
    OPERATE = "operate"
    """Metrics and dead letters."""
    AUDIT = "audit"
    """Read who changed what."""


Role = Literal["viewer", "analyst", "model_owner", "engineer", "admin"]

_P = Permission

ROLES: Final[dict[Role, frozenset[Permission]]] = {
    "viewer": frozenset({_P.READ}),
    "analyst": frozenset({_P.READ, _P.PII, _P.LABEL, _P.ANALYZE, _P.LISTS}),
    "model_owner": frozenset({_P.READ, _P.ANALYZE, _P.MODELS}),
    "engineer": frozenset({_P.READ, _P.SCORE, _P.LABEL, _P.ANALYZE, _P.RULES, _P.OPERATE}),
    "admin": frozenset(Permission),
}
"""What each role may do."""


class Principal(Struct, frozen=True):
    """A caller who has shown who he is.

    Attributes
    ----------
    name : str
        Of the key, the user or the client; it stands in the audit log.
    kind : str
        What he has shown: a key, a token, or the session of somebody who signed in.
    role : Role
    permissions : frozenset of Permission
        Those of the role, or fewer.
    csrf : str
        What forms and scripts of a session have to send along with whatever changes anything;
        empty for keys and tokens, which no browser sends by itself.
    """

    name: str
    kind: Literal["key", "token", "session"]
    role: Role
    permissions: frozenset[Permission]
    csrf: str = ""
