"""The base of every error that dafu raises on purpose.

A `DafuError` carries a message for people: what was wrong, where, and what to do about it. The
command line prints it without a traceback; a worker logs it and stops.
"""


class DafuError(Exception):
    """Something a person can put right; the message says how."""


class RegistryError(DafuError):
    """A control event that asks for what can not be."""
