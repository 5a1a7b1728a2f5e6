"""What becomes of identifiers, links and rings in a chaos run, as `tests.chaos.check` does it.

The identifiers agent is the function of each partition of `identifiers`, the rings agent that of
`links`. Whatever is published again has the same bytes, so distinct records are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dafu.rings.records import MEMBERSHIP_RECORD, decode_alert
from dafu.stages.batch import Messages
from dafu.stages.identifiers import IdentifierStage
from dafu.stages.rings import RingStage
from dafu.tables.records import MemoryRecords
from tests.chaos.report import Report, compare_counters
from tests.integration.payments import replay
from tests.integration.worker import System

Pair = tuple[bytes, bytes]


def pairs(messages: Messages) -> Iterable[Pair]:
    """Keys and values."""
    return zip(messages.keys.present(), messages.values.present(), strict=True)


class RingReference:
    """What the stages make of `identifiers` and `links` without interruption.

    Parameters
    ----------
    identifiers, links : list of list of records
        The topics, by partition.

    Attributes
    ----------
    sightings, links, alerts, memberships : set of (key, value)
        What belongs on the topics. Others add to the first three what they publish there.
    tables : dict
        Records by partition.
    """

    def __init__(self, identifiers: list[list[Any]], links: list[list[Any]]) -> None:
        self.sightings: set[Pair] = set()
        self.links: set[Pair] = set()
        self.alerts: set[Pair] = set()
        self.memberships: set[Pair] = set()
        self.tables: dict[str, list[MemoryRecords]] = {"identifiers": [], "rings": []}
        self.rejected = 0
        for log in identifiers:
            records = MemoryRecords()
            for _, shared in replay(log, IdentifierStage(), records):
                self.links.update(pairs(shared.links))
                self.rejected += len(shared.rejected)
            self.tables["identifiers"].append(records)
        rings = MemoryRecords()
        for _, found in replay(links[0], RingStage(), rings):
            self.alerts.update(pairs(found.alerts))
            self.memberships.update(pairs(found.memberships))
            self.rejected += len(found.rejected)
        self.tables["rings"].append(rings)


def memberships_among(transactions: Sequence[Any]) -> list[Any]:
    """The records of a log of transactions that are memberships."""
    return [r for r in transactions if r.value and r.value.startswith(MEMBERSHIP_RECORD)]


async def check_rings(
    report: Report,
    reference: RingReference,
    system: System,
    transactions: Sequence[Sequence[Any]],
) -> None:
    """Compare the topics of rings; `reference` holds what all agents are to publish there."""
    topics = system.topics
    for name, topic, wanted in (
        ("sightings", topics.identifiers, reference.sightings),
        ("links and activities", topics.links, reference.links),
        ("alerts", topics.fraud_rings, reference.alerts),
        ("memberships", topics.ring_membership, reference.memberships),
    ):
        published = [(r.key, r.value) for r in await system.read_flat(topic)]
        found = set(published)
        report.facts |= {name: len(found), f"{name} again": len(published) - len(found)}
        compare_counters(report, name, Counter(wanted), Counter(found))
    recorded = {r.value for part in transactions for r in memberships_among(part)}
    told = {MEMBERSHIP_RECORD + value + b"}" for _, value in reference.memberships}
    compare_counters(report, "recorded memberships", Counter(told), Counter(recorded))
    ids = Counter(decode_alert(value).alert_id for _, value in reference.alerts)
    report.kind("alerts with the id of others")
    for alert_id, count in ids.items():
        if count > 1:
            report.add("alerts with the id of others", alert_id)
    report.kind("records of rings rejected")
    if reference.rejected:
        report.add("records of rings rejected", "see the dead letters", reference.rejected)
