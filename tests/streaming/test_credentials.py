"""What Faust's clients show to brokers is what all others of dafu show."""

from __future__ import annotations

import ssl

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from dafu.settings import load_settings
from dafu.streaming.credentials import broker_credentials

USER = {"DAFU_SASL_USER": "u", "DAFU_SASL_PASSWORD": "p"}
TOKENS = USER | {
    "DAFU_SASL_MECHANISM": "OAUTHBEARER",
    "DAFU_OAUTH_TOKEN_URL": "https://login.example.com/token",
    "DAFU_OAUTH_EXTENSIONS": "logicalCluster=lkc-1",
}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"DAFU_SECURITY_PROTOCOL": "SSL"},
        {"DAFU_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **USER},
        {"DAFU_SECURITY_PROTOCOL": "SASL_SSL", "DAFU_SASL_MECHANISM": "SCRAM-SHA-512", **USER},
        {"DAFU_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **TOKENS},
        {"DAFU_SECURITY_PROTOCOL": "SASL_SSL", **TOKENS},
    ],
)
def test_all_clients_show_the_same(environ: dict[str, str]) -> None:
    security = load_settings(environ).security
    own = security.client_options()
    shown = credentials_to_aiokafka_auth(broker_credentials(security))
    faust = {name: value for name, value in shown.items() if value is not None}
    assert isinstance(own.pop("ssl_context", None), ssl.SSLContext) == security.uses_ssl
    assert isinstance(faust.pop("ssl_context", None), ssl.SSLContext) == security.uses_ssl
    assert {name: str(value) for name, value in faust.items()} == {
        name: str(value) for name, value in own.items()
    }
