"""What Faust's clients show to brokers: the same that all others of dafu do."""

from __future__ import annotations

from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from dafu.settings import Security

__all__ = ["broker_credentials"]


def broker_credentials(security: Security) -> CredentialsT | None:
    """Faust's credentials that say what `Security.client_options` says.

    Raises
    ------
    SettingsError
        As that does.
    """
    options = security.client_options()
    context = options.get("ssl_context")
    if security.uses_oauth:
        provider = options["sasl_oauth_token_provider"]
        return OAuthCredentials(oauth_cb=provider, ssl_context=context)
    if security.uses_sasl:
        return SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=context,
        )
    return SSLCredentials(context) if context is not None else None
