"""What came of a chaos run, compared with an uninterrupted one. All differences must be none.

The uninterrupted run is the stages themselves, in memory, over the logs as they are: stage one
over each partition of `transactions`, stage two over each partition of `transactions-by-merchant`,
and those that find rings over theirs (`tests.chaos.rings`).
Records that a restarted worker publishes again must have the same bytes, and count once. Of the
tables everything is compared that can be reached from the heads; where it is kept is left out
(`chunks_from`, `archive_slot`, which tombstones were written), because that depends on how the
records were cut into batches. What was sent is compared with the logs, so that nothing is lost
before or behind them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from dafu.features.catalogue import USER_FEATURES
from dafu.features.state import MERCHANTS, USERS, EntityLayout
from dafu.schema import LABEL_RECORD, decode_decision, parse_label, parse_label_record
from dafu.stages.batch import FORWARD, FORWARD_MAGIC, LABEL_MAGIC
from dafu.stages.rings import JOURNAL
from dafu.streaming import dead_letters
from dafu.streaming.records import RecordBatch
from dafu.tables.migrations import StateError
from dafu.tables.ownership import PartitionLog, log_page
from dafu.tables.records import MemoryRecords
from dafu.tables.rocksdb import RocksDBRecords
from dafu.tables.working_set import HEAD, SourceMarks
from tests.chaos.crew import Journal
from tests.chaos.report import Report, compare, compare_counters
from tests.chaos.rings import RingReference, check_rings, memberships_among, pairs
from tests.chaos.traffic import Traffic
from tests.integration.payments import replay, stages
from tests.integration.worker import System
from tests.streams import header, states

_MAGICS: Final = {magic.to_bytes(4, "little") for magic in (FORWARD_MAGIC, LABEL_MAGIC)}
_LAYOUTS: Final = {"users": USERS, "merchants": MERCHANTS}


async def check(system: System, traffic: Traffic, store: str, journal: Journal) -> Report:
    """Read all topics, and the local databases of stopped workers, and compare."""
    report = Report(journal=journal.lines)
    topics = system.topics
    transactions = await system.read(topics.transactions)
    _input(report, traffic, transactions)
    by_merchant = await system.read(topics.transactions_by_merchant)
    letters = await system.read_flat(topics.dead_letters)
    rings = RingReference(await system.read(topics.identifiers), await system.read(topics.links))
    reference = Reference(transactions, by_merchant, rings)
    await check_rings(report, rings, system, transactions)
    _forwarded(report, reference, by_merchant, journal)
    _decisions(report, reference, traffic, await system.read_flat(topics.decisions), journal)
    _dead_letters(report, reference, traffic, letters)
    for table, expected in (reference.tables | rings.tables).items():
        found = (await system.rebuilt(table))[: len(expected)]
        for p, (log, wanted) in enumerate(zip(found, expected, strict=True)):
            _table(report, f"{table} changelog", f"{table}[{p}]", table, log.data, wanted.data)
        if store == "rocksdb":
            await _local(report, system, table, expected)
    return report


class Reference:
    """What the stages make of the logs without interruption."""

    def __init__(
        self,
        transactions: list[list[Any]],
        by_merchant: list[list[Any]],
        rings: RingReference,
    ) -> None:
        users, merchants = stages()
        self.forwarded: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self.decisions: dict[str, tuple[bytes, bytes]] = {}
        self.decided_twice: list[str] = []
        self.rejected: dict[tuple[str, int, int], tuple[str, Any]] = {}
        self.duplicates = self.repeats = self.rerouted = 0
        self.tables: dict[str, list[MemoryRecords]] = {"users": [], "merchants": []}
        for p, log in enumerate(transactions):
            records = MemoryRecords()
            for piece, output in replay(log, users, records):
                for key, value in zip(
                    output.forward_keys.present(), output.forward_values.present(), strict=True
                ):
                    self.forwarded[p, int(header(value)["offset"])] = key, value
                rings.sightings.update(pairs(output.sightings))
                rings.links.update(pairs(output.activities))
                self._reject(piece, output.rejected)
                self.duplicates += output.duplicates
                self.rerouted += len(output.reroutes)
            self.tables["users"].append(records)
        for log in by_merchant:
            records = MemoryRecords()
            for piece, decided in replay(log, merchants, records):
                for key, payload in zip(
                    decided.keys.present(), decided.decisions.present(), strict=True
                ):
                    name = decode_decision(payload).transaction_id
                    if name in self.decisions:
                        self.decided_twice.append(name)
                    self.decisions.setdefault(name, (key, payload))
                rings.sightings.update(pairs(decided.sightings))
                rings.links.update(pairs(decided.activities))
                rings.alerts.update(pairs(decided.alerts))
                self._reject(piece, decided.rejected)
                self.repeats += decided.repeats
            self.tables["merchants"].append(records)

    def _reject(self, piece: Sequence[Any], rejected: Sequence[Any]) -> None:
        for why in rejected:
            record = piece[why.index]
            origin = record.topic, record.partition, record.offset
            self.rejected[origin] = why.reason, record


def _input(report: Report, traffic: Traffic, transactions: list[list[Any]]) -> None:
    """Everything that was sent is on the topic once, and nothing else but what went round."""
    every = [r for part in transactions for r in part]
    recorded = {id(r): r for r in (*memberships_among(every), *labels_among(every))}
    log = [r for r in every if id(r) not in recorded]
    round_again = [r for r in log if r.headers and r.key != b"nobody"]
    sent = Counter((s.key, s.value) for s in traffic.records if not s.label)
    there = Counter((r.key, r.value) for r in log)
    there.subtract((r.key, r.value) for r in round_again)
    report.facts |= {
        "transactions to be decided": len(traffic.good),
        "records published": len(traffic.records),
        "labels among the transactions": len(labels_among(every)),
        "records on transactions": len(log),
        "of these under a wrong key first": len(round_again),
    }
    compare_counters(report, "input records", sent, there)
    labels = {parse_label(s.value)[0] for s in traffic.records if s.label}
    found = {parse_label_record(r.value)[0] for r in labels_among(every)}
    compare_counters(report, "labels", Counter(labels), Counter(found))
    values = {s.value for s in traffic.records}
    report.kind("records that went round changed")
    for record in round_again:
        if record.value not in values:
            report.add("records that went round changed", repr(record.value)[:200])


def labels_among(transactions: Sequence[Any]) -> list[Any]:
    """The records of a log of transactions that are labels."""
    return [r for r in transactions if r.value and r.value.startswith(LABEL_RECORD)]


def _forwarded(
    report: Report, reference: Reference, by_merchant: list[list[Any]], journal: Journal
) -> None:
    found: dict[tuple[int, int], Any] = {}
    repeats = 0
    differ = "forwarded repeats with other bytes"
    report.kind(differ)
    for record in (r for part in by_merchant for r in part):
        if not record.value or record.value[:4] not in _MAGICS:
            continue
        head = header(record.value)
        at = int(head["source"]), int(head["offset"])
        first = found.setdefault(at, record)
        repeats += first is not record
        if (first.key, first.value) != (record.key, record.value):
            report.add(
                differ,
                f"transactions[{at[0]}]@{at[1]}: first {_at(first, journal)}, "
                f"again {_at(record, journal)}: {_feature_difference(first.value, record.value)}",
            )
    report.facts["forwarded again"] = repeats
    compare(
        report,
        "forwarded",
        reference.forwarded,
        {at: (r.key, r.value) for at, r in found.items()},
        lambda at: f"transactions[{at[0]}]@{at[1]} ({_at(found.get(at), journal)})",
        lambda one, other: _feature_difference(one[1], other[1]),
    )


def _at(record: Any, journal: Journal) -> str:
    if record is None:
        return "nowhere"
    place = f"{record.partition}@{record.offset} at {journal.at(record.timestamp)}"
    worker = dict(record.headers).get("dafu-worker", b"").decode()
    return f"{place} by {worker}" if worker else place


def _feature_difference(wanted: bytes, found: bytes) -> str:
    one, other = header(wanted), header(found)
    names = [
        n for n in FORWARD.names or () if n != "features" and one[n].tobytes() != other[n].tobytes()
    ]
    parts = [f"{n} {one[n]} not {other[n]}" for n in names]
    unequal = one["features"].view(np.int64) != other["features"].view(np.int64)
    parts += [
        f"{USER_FEATURES[k].name} {one['features'][k]} not {other['features'][k]}"
        for k in np.flatnonzero(unequal)[:6]
    ]
    if wanted[FORWARD.itemsize :] != found[FORWARD.itemsize :]:
        parts.append("the producer's JSON")
    return "; ".join(parts) or "the key"


def _decisions(
    report: Report, reference: Reference, traffic: Traffic, published: list[Any], journal: Journal
) -> None:
    found: dict[str, Any] = {}
    repeats = 0
    differ = "decision repeats with other bytes"
    report.kind(differ)
    for record in published:
        name = decode_decision(record.value).transaction_id
        first = found.setdefault(name, record)
        repeats += first is not record
        if (first.key, first.value) != (record.key, record.value):
            report.add(
                differ,
                f"{name}: first {_at(first, journal)}, again {_at(record, journal)}: "
                f"{_json_difference(first.value, record.value)}",
            )
    report.facts |= {
        "decisions": len(found),
        "decisions published again": repeats,
        "transactions that producers sent again": reference.duplicates,
        "repeats that stage two dropped": reference.repeats,
    }
    compare(
        report,
        "decisions",
        reference.decisions,
        {name: (r.key, r.value) for name, r in found.items()},
        lambda name: f"{name} ({_at(found.get(name), journal)})",
        lambda one, other: _json_difference(one[1], other[1]),
    )
    report.kind("good transactions without a decision")
    for name in sorted(traffic.good - found.keys()):
        report.add("good transactions without a decision", name)
    report.kind("transactions counted twice")
    for name in reference.decided_twice:
        report.add("transactions counted twice", f"{name}: applied twice by stage two")


def _json_difference(wanted: bytes, found: bytes) -> str:
    one, other = json.loads(wanted), json.loads(found)
    parts = [
        f"{k} {one.get(k)!r} not {other.get(k)!r}"[:200]
        for k in one.keys() | other.keys()
        if one.get(k) != other.get(k)
    ]
    return "; ".join(parts) or "the same JSON in other bytes, or another key"


def _dead_letters(
    report: Report, reference: Reference, traffic: Traffic, letters: list[Any]
) -> None:
    found: dict[tuple[str, int, int], tuple[str, bytes | None, bytes | None]] = {}
    for kind in ("dead letters without origin", "dead letter repeats that differ"):
        report.kind(kind)
    for letter in letters:
        origin = dead_letters.read_headers(letter.headers)
        if origin is None:
            report.add("dead letters without origin", repr(letter)[:200])
            continue
        content = origin.reason, letter.key, letter.value
        at = origin.topic, origin.partition, origin.offset
        if found.setdefault(at, content) != content:
            report.add("dead letter repeats that differ", f"{at}: {content[0]}")
    wanted = {at: (why, r.key, r.value) for at, (why, r) in reference.rejected.items()}
    report.facts |= {"dead letters": len(found), "dead letters again": len(letters) - len(found)}
    compare(
        report,
        "dead letters",
        wanted,
        found,
        lambda at: f"{at[0]}[{at[1]}]@{at[2]}",
        lambda one, other: f"{one[0]} not {other[0]}",
    )
    by_reason = Counter(reason for reason, _, _ in found.values())
    compare_counters(report, "dead letters by reason", traffic.rejected, by_reason)


def _table(
    report: Report,
    what: str,
    where: str,
    table: str,
    found: Mapping[bytes, bytes],
    wanted: Mapping[bytes, bytes],
) -> None:
    """Compare what two sets of records of one partition say of their entities."""
    layout = _LAYOUTS.get(table)
    if layout is None:
        plain, theirs = (_without_journal(records) for records in (wanted, found))
        name = f"{what}: records"
        compare(report, name, plain, theirs, lambda key: f"{where} {key!r}", _bytes_difference)
        return
    for kind in (f"{what}: entities counted twice", f"{what}: entities counted short"):
        report.kind(kind)
    one, other = _states(layout, wanted), _states(layout, found)
    for entity in one.keys() & other.keys():
        counts = [_head(layout, s[entity])["total_count"] for s in (one, other)]
        kind = f"{what}: entities counted {'twice' if counts[1] > counts[0] else 'short'}"
        if counts[0] != counts[1]:
            report.add(kind, f"{where} {entity!r}: {counts[0]} not {counts[1]} transactions")
    compare(
        report,
        f"{what}: entities",
        one,
        other,
        lambda entity: f"{where} {entity!r}",
        lambda a, b: _state_difference(layout, a, b),
    )
    if table != "merchants":
        return
    report.kind(f"{what}: marks different")
    marks = [records.get(SourceMarks.KEY) for records in (wanted, found)]
    if marks[0] != marks[1]:
        shown = [None if m is None else np.frombuffer(m, np.int64).tolist() for m in marks]
        report.add(f"{what}: marks different", f"{where}: {shown[0]} not {shown[1]}")


def _without_journal(records: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Records but for the journal of rings, which tells how the log was cut into batches."""
    return {key: value for key, value in records.items() if not key.startswith(JOURNAL)}


def _bytes_difference(wanted: bytes, found: bytes) -> str:
    return f"{wanted[:100]!r} not {found[:100]!r}"


State = tuple[bytes, ...]
_DAMAGED: Final = (b"",) * 5


def _states(layout: EntityLayout, data: Mapping[bytes, bytes]) -> dict[bytes, State]:
    try:
        return states(layout, data)
    except StateError:
        pass  # find the damaged ones
    found: dict[bytes, State] = {}
    by_entity: defaultdict[Hashable, dict[bytes, bytes]] = defaultdict(dict)
    skip = {HEAD: 1, b"C": 9, b"A": 2, b"L": 2, b"R": 2}
    for key, value in data.items():
        by_entity[key[skip.get(key[:1], len(key)) :]][key] = value
    for own in by_entity.values():
        try:
            found |= states(layout, own)
        except StateError:
            found |= {key[1:]: _DAMAGED for key in own if key.startswith(HEAD)}
    return found


def _head(layout: EntityLayout, state: State) -> Any:
    return np.frombuffer(state[0] or bytes(layout.head.itemsize), layout.head, 1)[0]


def _state_difference(layout: EntityLayout, wanted: State, found: State) -> str:
    if found == _DAMAGED:
        return "damaged: a record that its head refers to is missing or cut short"
    one, other = _head(layout, wanted), _head(layout, found)
    names = [n for n in layout.head.names or () if np.any(one[n] != other[n])]
    parts = [f"{n} {one[n]} not {other[n]}" for n in names]
    parts += [
        name
        for name, a, b in zip(
            ("events", "archive", "labels", "ring"), wanted[1:], found[1:], strict=True
        )
        if a != b
    ]
    return "; ".join(parts)


class _Database(NamedTuple):
    """A local database of a partition: what it holds, and how far in the changelog that reaches."""

    partition: int
    offset: int
    log: PartitionLog
    records: MemoryRecords
    path: Path


async def _local(
    report: Report, system: System, table: str, expected: Sequence[MemoryRecords]
) -> None:
    """Every local database, carried on to the end of its changelog, holds the table.

    That is what its worker would do at the next start. The newest one of each partition must be
    at the end already.
    """
    databases: list[_Database] = []
    for current in sorted(system.directory.rglob(f"{table}.rocksdb/*/CURRENT")):
        records = RocksDBRecords(current.parent)
        try:
            found = MemoryRecords()
            found.data = dict(records.items())
            log = PartitionLog(records.position)
            databases.append(
                _Database(int(current.parent.name), log.end, log, found, current.parent)
            )
        finally:
            records.close()
    report.facts[f"local databases of {table}"] = len(databases)
    ends = [-1] * len(expected)
    changelog = system.changelog(table)
    for number, logged in enumerate(await system.read(changelog)):
        if logged:
            ends[number] = logged[-1].offset
            page = log_page(RecordBatch.of(changelog, number, logged))
            for database in databases:
                if database.partition == number:
                    database.records.write(database.log.recover(page))
    for database in databases:
        end = ends[database.partition]
        where = f"{database.path} from {database.offset} of {end}"
        wanted = expected[database.partition].data
        _table(report, f"{table} local", where, table, database.records.data, wanted)
    report.kind(f"{table} local: partitions without a complete database")
    for number, end in enumerate(ends):
        reached = max((d.offset for d in databases if d.partition == number), default=-1)
        if reached < end:
            report.add(
                f"{table} local: partitions without a complete database",
                f"{table}[{number}]: {reached} of {end}",
            )
