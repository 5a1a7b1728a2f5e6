"""`POST /v1/labels`: what became known of transactions, onto the topic that is for that."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from dafu.schema import InvalidRecordError, Label, parse_label
from dafu.streaming.sender import SendError
from dafu.web.audit import Audit
from dafu.web.availability import incomplete
from dafu.web.decisions.documents import MOST_ITEMS, Labelled, Labels
from dafu.web.decisions.publishing import Publisher
from dafu.web.decisions.score_endpoints import refusal
from dafu.web.endpoints import Call, Endpoint
from dafu.web.principals import Permission
from dafu.web.problems import answer, problem
from dafu.web.status import Reporter

__all__ = ["label_endpoints"]

_Many = Annotated[list[Label], Meta(min_length=1, max_length=MOST_ITEMS)]
_SECONDS: Final = 10.0
_NAMED: Final = 10
"""So many transactions of a request stand in the audit log by name."""


def label_endpoints(
    topic: str, publisher: Publisher, reporter: Reporter, audit: Audit
) -> list[Endpoint]:
    """One label, or up to a thousand; all of them are published, or none if one is not right."""

    async def label(call: Call) -> web.Response:
        if response := incomplete(reporter):
            return response
        labels = call.body if isinstance(call.body, list) else [call.body]
        records = []
        for i, one in enumerate(labels):
            value = msgspec.json.encode(one)
            try:
                parse_label(value)
            except InvalidRecordError as exc:
                return refusal(exc, f"[{i}]" if isinstance(call.body, list) else "")
            records.append((one.user_id.encode(), value))
        try:
            async with asyncio.timeout(_SECONDS):
                await asyncio.gather(*(publisher.publish(topic, *record) for record in records))
        except (SendError, TimeoutError) as exc:
            return problem(
                503,
                f"not all of them could be published: {exc or 'no answer from the broker'}; they "
                "may all be sent again",
                headers={"Retry-After": "2"},
            )
        for source in sorted({one.source for one in labels}):
            said = [one for one in labels if one.source == source]
            details = {
                "source": source,
                "labels": len(said),
                "fraud": sum(x.is_fraud for x in said),
            }
            named = ", ".join(one.transaction_id for one in said[:_NAMED])
            await audit.record(call, "label", named, details)
        accepted = [Labelled(one.transaction_id, one.user_id) for one in labels]
        return answer(Labels(accepted), status=202)

    return [
        Endpoint(
            method="POST",
            path="/v1/labels",
            name="post_labels",
            summary="Say what became known of transactions",
            tag="scoring",
            permission=Permission.LABEL,
            handler=label,
            body=Label | _Many,
            max_bytes=MOST_ITEMS * 4096,
            returns=Labels,
            status=202,
            problems={
                400: "The body is neither a label nor a list of labels.",
                413: "It is too long.",
                415: "The body is not application/json.",
                422: "A time is out of bounds; nothing was published.",
                503: "The worker is not ready, or the broker does not answer.",
            },
        )
    ]
