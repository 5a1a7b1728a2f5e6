"""The worker's HTTP face, on Faust's own web server: every endpoint, and who may what."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from dafu.agents.assembly import Agents
from dafu.agents.shell import WORKER_NAME
from dafu.settings import Settings
from dafu.web.audit_topic import AuditTopic, audit_endpoints
from dafu.web.auth.auth import Auth
from dafu.web.auth.endpoints import auth_endpoints
from dafu.web.auth.gate import AuthGate
from dafu.web.auth.provider import open_provider
from dafu.web.console.setup import Parts, add_console
from dafu.web.control import ControlDesk
from dafu.web.decisions.assembly import Decisions
from dafu.web.endpoints import install
from dafu.web.entities import entity_endpoints
from dafu.web.forwarding import Forwarder
from dafu.web.jobs.endpoints import job_endpoints
from dafu.web.jobs.jobs import Jobs
from dafu.web.judging import PerformanceDesk
from dafu.web.lists import list_endpoints
from dafu.web.masking import MASKER, Masker
from dafu.web.metrics import Exposer
from dafu.web.models import model_endpoints
from dafu.web.problems import protect
from dafu.web.progress import REFRESH_SECONDS
from dafu.web.rates import open_rates
from dafu.web.reference import reference_endpoints
from dafu.web.rings import RingSource, ring_endpoints
from dafu.web.rules import rule_endpoints
from dafu.web.status import AccessStatus, Reporter
from dafu.web.surroundings import surround
from dafu.web.tls import client_context
from dafu.web.worker import worker_endpoints

__all__ = ["KEEPALIVE_SECONDS", "register_web"]

KEEPALIVE_SECONDS: Final = 75.0
"""A connection may be so long without a whole request; longer than proxies keep unused ones."""


def register_web(app: Any, agents: Agents, settings: Settings) -> Reporter:
    """Add the endpoints to the app's web server; call it once, before the app starts.

    Parameters
    ----------
    app : dafu.app.App
    agents : Agents
        Their tables, stages and counters are what is shown.
    settings : Settings

    Returns
    -------
    Reporter
        What status and health are read from.
    """
    reporter = Reporter(app, agents, max_stall_s=settings.health.ready_stall_s)
    app.timer(REFRESH_SECONDS, traced=False)(reporter.monitor.refresh)
    application = app.web.web_app
    # In place of Faust's own, which waits for an hour.
    app.web._runner = web.AppRunner(
        application, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS
    )
    protect(application)
    audit_topic = AuditTopic(app, settings)
    auth = Auth(settings, audit_topic.publish, worker=WORKER_NAME.decode())
    app.auth = auth
    surround(application, settings.web, auth.words, auth.audit)
    application[MASKER] = Masker(lambda: auth.signer.secret("mask"))
    rates = open_rates(settings.web.redis_url, f"{settings.app_id}:rate:")
    reporter.access = lambda: AccessStatus(
        rates.where, rates.alone, auth.audit.written, auth.audit.failed
    )
    provider = open_provider(settings.auth)
    forwarder = Forwarder(app, client_context(settings.web), auth.vouch)
    application.on_cleanup.extend([forwarder.close, rates.close])
    if provider is not None:
        application.on_cleanup.append(provider.keys.close)
    exposer = Exposer(reporter, agents)
    endpoints = [
        *worker_endpoints(reporter, exposer),
        *entity_endpoints(agents, reporter, forwarder),
    ]
    decisions = Decisions(app, settings, reporter, auth.audit)
    jobs = Jobs(settings.data_dir / "jobs", lambda: str(app.conf.canonical_url))
    application.on_shutdown.extend([decisions.close, jobs.close])
    endpoints += decisions.endpoints()
    endpoints += job_endpoints(jobs, settings.web, forwarder)
    endpoints += [*auth_endpoints(auth), *audit_endpoints(audit_topic)]
    rings = None if agents.rings is None else RingSource(agents.rings, reporter, forwarder)
    if rings is not None:
        endpoints += ring_endpoints(rings)
    desk = ControlDesk(agents.control, settings.topics.control, reporter, forwarder, auth.audit)
    judging = PerformanceDesk()
    application.on_cleanup.append(judging.close)
    endpoints += model_endpoints(desk, judging)
    endpoints += rule_endpoints(desk, agents.merchants)
    endpoints += list_endpoints(desk)
    parts = Parts(reporter, forwarder, decisions, rings, desk, judging, auth, audit_topic)
    endpoints += add_console(application, agents, settings, parts)
    endpoints += reference_endpoints(lambda: endpoints)
    install(application, endpoints, AuthGate(auth, rates, provider), settings.web.request_seconds)
    return reporter
