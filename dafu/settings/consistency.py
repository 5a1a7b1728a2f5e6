"""What can be wrong between settings that are right one by one.

Pure: settings in, problems out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from dafu.settings.clients import LOOPBACK
from dafu.settings.model import Settings
from dafu.settings.problems import Problem

_ORDERED: Final = (
    ("thresholds.fraud", "thresholds.block", False),
    ("thresholds.medium", "thresholds.high", True),
    ("thresholds.high", "thresholds.critical", True),
)

_IN_CLEAR: Final = re.compile(rf"http://(?!{LOOPBACK}([:/]|\Z))")


def contradictions(settings: Settings, bad: set[str]) -> Iterator[Problem]:
    """What is wrong between settings that are right one by one."""

    def origin(*names: str) -> str:
        return ", ".join(dict.fromkeys(settings.origins.get(name, "default") for name in names))

    for lower, upper, strictly in _ORDERED:
        if bad & {lower, upper}:
            continue
        low, high = (getattr(settings.thresholds, n.partition(".")[2]) for n in (lower, upper))
        if low > high or (strictly and low == high):
            relation = "below" if strictly else "at most"
            yield Problem(
                lower,
                origin(lower, upper),
                f"{low:g} is not {relation} {upper}, which is {high:g}",
                "thresholds in order: fraud <= block and medium < high < critical",
            )
    roles, looking = settings.worker_roles, settings.rings.enabled
    if "worker_roles" not in bad and "gateway" in roles and len(roles) > 1:
        yield Problem(
            "worker_roles",
            origin("worker_roles"),
            f"{','.join(roles)}: a gateway is nothing besides",
            "decisions, rings or both, or gateway alone",
        )
    if not bad & {"worker_roles", "rings.enabled"} and {*roles} == {"rings"} and not looking:
        yield Problem(
            "worker_roles",
            origin("worker_roles", "rings.enabled"),
            "rings alone, and rings.enabled is false: there is nothing to do",
            "decisions, or rings.enabled: true",
        )
    topics = settings.topics
    if "topics.names" not in bad:
        renamed = Counter(each.partition("=")[0] for each in topics.names)
        used = Counter(topics.all)
        for what in (
            *(f"{name} has two names" for name, count in renamed.items() if count > 1),
            *(f"{name} would be two topics" for name, count in used.items() if count > 1),
        ):
            where = origin("topics.names", "topics.prefix")
            yield Problem("topics.names", where, what, "one name for each topic")
    if settings.source.topic in topics.all and "source.topic" not in bad:
        yield Problem(
            "source.topic",
            origin("source.topic", "topics.names", "topics.prefix"),
            f"{settings.source.topic} is one of dafu's own topics",
            "a topic that others write to",
        )
    yield from _source(settings, bad, origin)
    replication = {"topics.min_insync_replicas", "topics.replication_factor"}
    if not bad & replication and topics.min_insync_replicas > topics.replication_factor:
        yield Problem(
            "topics.min_insync_replicas",
            origin("topics.min_insync_replicas", "topics.replication_factor"),
            f"{topics.min_insync_replicas} is more than topics.replication_factor, which is "
            f"{topics.replication_factor}: nothing could be written",
            "at most the replication factor; one less lets a broker fail",
        )
    interval = settings.commit_interval_s
    for name in ("ready_stall_s", "watchdog_s"):
        bound = getattr(settings.health, name)
        setting = f"health.{name}"
        if not bad & {setting, "commit_interval_s"} and 0 < bound <= interval:
            yield Problem(
                setting,
                origin(setting, "commit_interval_s"),
                f"{bound:g} is not above commit_interval_s, which is {interval:g}: a healthy "
                "worker's committed offset stands still for that long",
                "several times commit_interval_s",
            )
    web = settings.web
    waits = {"web.score_timeout_ms", "web.request_seconds"}
    if not bad & waits and web.score_timeout_ms > web.longest_wait_ms:
        yield Problem(
            "web.score_timeout_ms",
            origin("web.score_timeout_ms", "web.request_seconds"),
            f"{web.score_timeout_ms} is more than {web.longest_wait_ms}, nine tenths of "
            f"web.request_seconds, which is {web.request_seconds:g}: the request would be given up",
            "at most nine tenths of web.request_seconds",
        )
    security = settings.security
    if security.uses_sasl:
        needed = [("sasl_user", "DAFU_SASL_USER"), ("sasl_password", "DAFU_SASL_PASSWORD")]
        if security.uses_oauth:
            # A token from a file needs nobody to ask for it.
            needed = [] if (security.oauth_token_url or "").startswith("file:") else needed
            needed = [*needed, ("oauth_token_url", "DAFU_OAUTH_TOKEN_URL")]
        for name, variable in needed:
            if not getattr(security, name) and f"security.{name}" not in bad:
                what = security.sasl_mechanism if security.uses_oauth else security.protocol
                yield Problem(
                    f"security.{name}",
                    origin("security.protocol"),
                    f"is missing, and {what} needs it",
                    f"set {variable}",
                )
    registry = settings.schema_registry
    for setting, key, certificate in (
        ("web.tls_key", web.tls_key, web.tls_cert),
        ("security.ssl_keyfile", security.ssl_keyfile, security.ssl_certfile),
        ("schema_registry.ssl_keyfile", registry.ssl_keyfile, registry.ssl_certfile),
    ):
        if key is not None and certificate is None:
            needs = setting.replace("key", "cert")
            yield Problem(setting, origin(setting), f"is of no use without {needs}", "both")
    if security.oauth_token_url is not None and not security.uses_oauth:
        with_what = security.sasl_mechanism if security.uses_sasl else security.protocol
        yield Problem(
            "security.oauth_token_url",
            origin("security.oauth_token_url", "security.protocol", "security.sasl_mechanism"),
            f"is of no use with {with_what}",
            "with OAUTHBEARER",
        )
    if security.ssl_certfile is not None and not security.uses_ssl:
        yield Problem(
            "security.ssl_certfile",
            origin("security.ssl_certfile", "security.protocol"),
            f"is of no use with {security.protocol}",
            "with SSL or SASL_SSL",
        )
    together = ("auth.idp_issuer", "auth.idp_audience", "auth.idp_jwks_url")
    given = [getattr(settings.auth, name.partition(".")[2]) is not None for name in together]
    if any(given) and not all(given) and not bad & set(together):
        missing = ", ".join(name for name, there in zip(together, given, strict=True) if not there)
        yield Problem(
            "auth.idp_issuer",
            origin(*together),
            f"an identity provider needs {missing} as well",
            "issuer, audience and JWKS URL together",
        )


def _source(settings: Settings, bad: set[str], origin: Callable[..., str]) -> Iterator[Problem]:
    """Of payments in other words, and of the registry with their schemas."""
    source, registry = settings.source, settings.schema_registry
    if source.format != "json" and source.topic is None and "source.topic" not in bad:
        yield Problem(
            "source.format",
            origin("source.format"),
            f"{source.format} is of no use without source.topic",
            "set DAFU_SOURCE_TOPIC",
        )
    if "schema_registry.urls" in bad or "source.format" in bad:
        return
    if source.format == "avro" and not registry.urls:
        yield Problem(
            "schema_registry.urls",
            origin("source.format"),
            "is missing, and avro needs it",
            "set DAFU_SCHEMA_REGISTRY_URLS",
        )
    if source.format != "avro" and registry.urls:
        yield Problem(
            "schema_registry.urls",
            origin("schema_registry.urls", "source.format"),
            f"is of no use with {source.format}",
            "with avro",
        )
    login = {"schema_registry.user": registry.user, "schema_registry.password": registry.password}
    for name, value in login.items():
        if value is None and any(login.values()) and not bad & set(login):
            yield Problem(name, origin(*login), "is missing", "user and password, or neither")
    for url in registry.urls:
        if registry.password is not None and _IN_CLEAR.match(url):
            yield Problem(
                "schema_registry.password",
                origin("schema_registry.password", "schema_registry.urls"),
                f"would go to {url} in clear",
                "with https (http on loopback only)",
            )
