"""What a worker needs to score over HTTP and to show decisions, put together."""

from __future__ import annotations

from typing import Any

from dafu.settings import Settings
from dafu.web.audit import Audit
from dafu.web.decisions.decision_endpoints import decision_endpoints
from dafu.web.decisions.feed import DecisionFeed
from dafu.web.decisions.label_endpoints import label_endpoints
from dafu.web.decisions.lookup import LogLookup
from dafu.web.decisions.publishing import Publisher
from dafu.web.decisions.score_endpoints import score_endpoints
from dafu.web.decisions.scoring import Scorer
from dafu.web.decisions.shared import SharedDecisions
from dafu.web.endpoints import Endpoint
from dafu.web.status import Reporter

__all__ = ["Decisions"]


class Decisions:
    """The feed of a worker, and whoever lives on it.

    Parameters
    ----------
    app : dafu.app.App
    settings : Settings
    reporter : Reporter
    audit : Audit
        Is told of labels.

    Raises
    ------
    SharingError
        If Redis is configured and can not be used here.
    """

    def __init__(self, app: Any, settings: Settings, reporter: Reporter, audit: Audit) -> None:
        self._settings = settings
        self._reporter = reporter
        self._audit = audit
        self.feed = DecisionFeed(settings, app.batch_sender)
        self.publisher = Publisher(app.batch_sender)
        url = settings.web.redis_url
        self._shared = None if url is None else SharedDecisions(url, settings.app_id)
        self._scorer = Scorer(
            settings.topics.transactions,
            self.feed,
            self.publisher,
            LogLookup(settings, self.publisher),
            self._shared,
        )

    def endpoints(self) -> list[Endpoint]:
        """Scoring, decisions and labels."""
        settings, reporter = self._settings, self._reporter
        return [
            *score_endpoints(settings, self._scorer, reporter),
            *decision_endpoints(self.feed, self._scorer),
            *label_endpoints(settings.topics.labels, self.publisher, reporter, self._audit),
        ]

    async def close(self, _: Any = None) -> None:
        """Stop with the web server."""
        await self.feed.close()
        if self._shared is not None:
            await self._shared.close()
