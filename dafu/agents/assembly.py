"""The worker's agents, each with its stage, its table and its topics.

====================  ============================  ==========================================
agent                 reads                         writes
====================  ============================  ==========================================
``source``            somebody else's topic         ``transactions``
``labels``            ``labels``                    ``transactions``
``memberships``       ``ring-membership``           ``transactions``
``control``           ``control``                   ``transactions``, ``...-by-merchant``
``users``             ``transactions``              ``...-by-merchant``, ``identifiers``, ``links``
``merchants``         ``transactions-by-merchant``  ``decisions``, ``identifiers``, ``links``,
                                                    ``fraud-rings``
``identifiers``       ``identifiers``               ``links``
``rings``             ``links``                     ``fraud-rings``, ``ring-membership``
====================  ============================  ==========================================

All of them write what they can not use to ``dead-letters``. There is a source only where payments
come in other words than dafu's. Without a search for rings there are neither the last two agents
nor the one for memberships, and nobody writes to their topics.

A worker runs all of them unless its roles are fewer: the last two have the role ``rings``, the
others ``decisions``. Of agents that it does not run, and of their tables, it is assigned no
partition; whoever asks it about them is sent on to those who are. A ``gateway`` runs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from dafu.agents.control import ControlAgent
from dafu.agents.identifiers import IdentifiersAgent
from dafu.agents.merchants import MerchantsAgent
from dafu.agents.recorder import Admit, RecorderAgent, admit_label, admit_membership
from dafu.agents.rings import RingsAgent
from dafu.agents.shelf import Shelf
from dafu.agents.shell import RingTopics, StageAgent
from dafu.agents.users import UsersAgent
from dafu.settings import Settings
from dafu.stages.identifiers import IdentifierStage
from dafu.stages.merchants import MerchantStage
from dafu.stages.rings import RingStage
from dafu.stages.users import UserStage
from dafu.streaming.sender import BatchSender
from dafu.tables.table import PackedTable

if TYPE_CHECKING:
    from dafu.agents.source import Payments, SourceAgent

__all__ = ["Agents", "add_agents"]

FINDERS: Final = ("identifiers", "rings")
"""Agents with the role `rings`."""


class Agents(NamedTuple):
    """All agents of a worker; some are None where there is nothing for them to do."""

    labels: RecorderAgent
    control: ControlAgent
    users: UsersAgent
    merchants: MerchantsAgent
    memberships: RecorderAgent | None
    identifiers: IdentifiersAgent | None
    rings: RingsAgent | None
    source: SourceAgent | None

    @property
    def keepers(self) -> list[StageAgent[Any]]:
        """Those that keep state of users, merchants, identifiers or rings."""
        stages = (self.users, self.merchants, self.identifiers, self.rings)
        return [agent for agent in stages if agent is not None]

    def by_name(self) -> dict[str, Any]:
        """Those that there are."""
        named = zip(self._fields, self, strict=True)
        return {name: agent for name, agent in named if agent is not None}


class Host(Protocol):
    """What agents need of the app."""

    settings: Settings

    def bytes_topic(self, name: str, *, own: bool = True) -> Any:
        """A topic of raw records; one that is not dafu's own is never created."""
        ...

    def packed_table(
        self, name: str, partitions: int | None = None, *, kept: bool = True
    ) -> PackedTable:
        """A changelogged table of packed records; nothing of it is assigned if it is not kept."""
        ...

    def batch_sender(self) -> BatchSender:
        """The worker's sender, once the producer has started."""
        ...

    def agent(self, channel: Any, *, name: str) -> Any:
        """Faust's decorator."""
        ...


def add_agents(
    app: Host, users: UserStage, merchants: MerchantStage, payments: Payments | None = None
) -> Agents:
    """Give the app its agents; these stages have the models that the worker is configured with.

    `payments` says how those on the source topic are read, None if there is none.
    """
    topics, sender = app.settings.topics, app.batch_sender
    transactions = app.bytes_topic(topics.transactions)
    by_merchant = app.bytes_topic(topics.transactions_by_merchant)
    identifiers = app.bytes_topic(topics.identifiers)
    links = app.bytes_topic(topics.links)
    alerts = app.bytes_topic(topics.fraud_rings)
    membership = app.bytes_topic(topics.ring_membership)
    dead_letters = app.bytes_topic(topics.dead_letters)
    shelf = Shelf({"scoring": merchants.model, "sequence": users.sequence})
    looking = app.settings.rings.enabled
    roles = app.settings.worker_roles
    deciding, finding = "decisions" in roles, "rings" in roles
    rings = RingTopics(identifiers, links, alerts) if looking else None

    def recorder(admit: Admit) -> RecorderAgent:
        return RecorderAgent(sender, admit, topic=transactions, dead_letters=dead_letters)

    source: SourceAgent | None = None
    if payments is not None:
        # Mappings come with what reads files, which no other worker has to load.
        from dafu.agents.source import SourceAgent

        source = SourceAgent(sender, payments, topic=transactions, dead_letters=dead_letters)

    agents = Agents(
        labels=recorder(admit_label),
        control=ControlAgent(
            app.packed_table("models", kept=deciding),
            sender,
            shelf,
            merchants.rules,
            logs={"scoring": by_merchant, "sequence": transactions},
            dead_letters=dead_letters,
        ),
        users=UsersAgent(
            users,
            app.packed_table("users", kept=deciding),
            sender,
            shelf,
            forwarded=by_merchant,
            rings=rings,
            dead_letters=dead_letters,
        ),
        merchants=MerchantsAgent(
            merchants,
            app.packed_table("merchants", kept=deciding),
            sender,
            shelf,
            decisions=app.bytes_topic(topics.decisions),
            rings=rings,
            dead_letters=dead_letters,
        ),
        memberships=recorder(admit_membership) if looking else None,
        identifiers=IdentifiersAgent(
            IdentifierStage(),
            app.packed_table("identifiers", kept=finding),
            sender,
            links=links,
            dead_letters=dead_letters,
        )
        if looking
        else None,
        rings=RingsAgent(
            RingStage(),
            app.packed_table("rings", partitions=1, kept=finding),
            sender,
            alerts=alerts,
            memberships=membership,
            dead_letters=dead_letters,
        )
        if looking
        else None,
        source=source,
    )
    sources = {
        "labels": app.bytes_topic(topics.labels),
        "control": app.bytes_topic(topics.control),
        "users": transactions,
        "merchants": by_merchant,
        "memberships": membership,
        "identifiers": identifiers,
        "rings": links,
    }
    if source is not None:
        sources["source"] = app.bytes_topic(app.settings.source.topic or "", own=False)
    for name, agent in agents.by_name().items():
        if finding if name in FINDERS else deciding:
            app.agent(sources[name], name=name)(agent.run)
    if not (deciding or finding):
        gateways = app.bytes_topic(f"{app.settings.app_id}-gateways")
        app.agent(gateways, name="gateway")(stand_by)
    return agents


async def stand_by(stream: Any) -> None:
    """Read a topic that nobody writes to, and so belong to the group, which knows who holds what.

    Faust and Kafka have no members without a subscription.
    """
    await stream.channel.maybe_declare()
    async for _ in stream:
        pass
