"""The settings as types: names, defaults, bounds, and what follows from them.

This module reads no file and no environment; `dafu.settings.loading` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

from msgspec import Meta, Struct, field

from dafu.settings.clients import SchemaRegistry, Security
from dafu.settings.files import PACKAGE, find_conf
from dafu.settings.web import Access, Web
from dafu.stages.decide import Thresholds

_NAME_RULE: Final = "letters, digits, '.', '_' and '-'"
_Name = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,200}\Z", description=f"1 to 200 {_NAME_RULE}")
]
_Prefix = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._-]{0,200}\Z", description=f"at most 200 {_NAME_RULE}")
]
TOPICS: Final = (
    "transactions",
    "labels",
    "control",
    "transactions-by-merchant",
    "decisions",
    "dead-letters",
    "identifiers",
    "links",
    "fraud-rings",
    "ring-membership",
    "audit",
)
"""What dafu calls its topics."""

_Renamed = Annotated[str, Meta(pattern=rf"\A({'|'.join(TOPICS)})=[A-Za-z0-9._-]{{1,249}}\Z")]
_Brokers = Annotated[str, Meta(description="host:port[,host:port...], with or without kafka://")]


WorkerRole = Literal["decisions", "rings", "gateway"]
"""What a worker is for."""

_Roles = Annotated[
    tuple[WorkerRole, ...],
    Meta(min_length=1, description="decisions, rings or both, or gateway alone"),
]
_Days = Annotated[float, Meta(ge=0.0, le=36_500.0, description="a number of days; 0: for ever")]
_Bound = Annotated[float, Meta(ge=1.0, le=86_400.0, description="seconds from 1 to 86400")]


class Topics(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the Kafka topics and how missing ones are created."""

    prefix: _Prefix = ""
    names: Annotated[tuple[_Renamed, ...], Meta(description="topic=name,... by dafu's names")] = ()
    """Topics that are called otherwise, as they are called; the prefix is for the others."""
    partitions: Annotated[int, Meta(ge=1, le=4096, description="an integer from 1 to 4096")] = 1
    replication_factor: Annotated[int, Meta(ge=1, le=32, description="an integer from 1 to 32")] = 1
    min_insync_replicas: Annotated[
        int, Meta(ge=0, le=32, description="an integer from 0 to 32; 0: what suits the replication")
    ] = 0
    """Replicas that must have a record before it counts as written; see `insync_replicas`."""
    transactions_retention_days: _Days = 44.0
    """Of the transactions: the horizon of the features, so that tables can be rebuilt from them."""
    retention_days: _Days = 7.0
    """Of the decisions, of what stage one hands to stage two, and of what finds fraud rings."""
    dead_letters_retention_days: _Days = 30.0
    audit_retention_days: _Days = 400.0
    compaction_lag_s: Annotated[
        float, Meta(ge=0.0, le=3.2e7, description="a number of seconds, 0 or more")
    ] = 3600.0
    """How long a changelog keeps every record before compaction may take it."""

    def _named(self, own: str) -> str:
        for renamed in self.names:
            name, _, given = renamed.partition("=")
            if name == own:
                return given
        return f"{self.prefix}{own}"

    @property
    def all(self) -> tuple[str, ...]:
        """The names of all topics."""
        return tuple(map(self._named, TOPICS))

    def partitions_of(self, name: str) -> int:
        """How many partitions dafu gives a topic: `links` and `audit` have one order, so one."""
        return 1 if name in (self.links, self.audit) else self.partitions

    @property
    def insync_replicas(self) -> int:
        """`min_insync_replicas`; by itself 2 where there are 3 replicas or more, else 1.

        One less than there are replicas, so that the loss of one broker does not stop the worker.
        """
        return self.min_insync_replicas or min(2, max(1, self.replication_factor - 1))

    @property
    def transactions(self) -> str:
        """Transactions as producers publish them, keyed by user."""
        return self._named("transactions")

    @property
    def labels(self) -> str:
        """What became known of transactions, keyed by user."""
        return self._named("labels")

    @property
    def control(self) -> str:
        """Requests about models."""
        return self._named("control")

    @property
    def transactions_by_merchant(self) -> str:
        """What stage one hands to stage two, keyed by merchant."""
        return self._named("transactions-by-merchant")

    @property
    def decisions(self) -> str:
        """One decision for every transaction, keyed by user."""
        return self._named("decisions")

    @property
    def dead_letters(self) -> str:
        """Records that could not be read, as they came, with the reason in headers."""
        return self._named("dead-letters")

    @property
    def identifiers(self) -> str:
        """Which user was seen with which device, address, card or email, keyed by that."""
        return self._named("identifiers")

    @property
    def links(self) -> str:
        """Users and the identifiers that others use as well, and news of members of rings."""
        return self._named("links")

    @property
    def fraud_rings(self) -> str:
        """Alerts of fraud rings, keyed by ring."""
        return self._named("fraud-rings")

    @property
    def ring_membership(self) -> str:
        """Users' places in fraud rings, keyed by user."""
        return self._named("ring-membership")

    @property
    def audit(self) -> str:
        """Who changed what over HTTP, who signed in, and whom it was refused to."""
        return self._named("audit")


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where payments come from that are said in other words than dafu's."""

    topic: _Name | None = None
    """None: nowhere; producers write transactions as dafu has them."""
    mapping: str = "dafu"
    """Name or path of the mapping that says what is what."""
    format: Literal["json", "avro", "json-schema"] = "json"
    """What a record is: JSON, or Avro or JSON behind the id of its schema in a registry."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What input may be before it is refused."""

    max_future_skew_s: Annotated[
        float, Meta(ge=0.0, le=3.2e9, description="a number of seconds, 0 or more")
    ] = 86_400.0
    """A transaction's timestamp may be at most this far after its record's own timestamp."""


class Rings(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether fraud rings are looked for."""

    enabled: bool = True
    """Without it nothing is published of who uses which identifier, and no ring is told of."""


class Health(Struct, frozen=True, forbid_unknown_fields=True):
    """When a worker counts as not ready, when it gives itself up, how long it may take to stop."""

    ready_stall_s: _Bound = 30.0
    """Not ready once a committed offset has not moved for so long although there is lag."""
    watchdog_s: Annotated[
        float, Meta(ge=0.0, le=86_400.0, description="seconds up to 86400; 0: never")
    ] = 120.0
    """The worker ends itself after so long without any progress, or with a blocked event loop."""
    stop_deadline_s: _Bound = 10.0
    """From the signal to stop; what is not committed by then is read again after the restart."""


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    format: Literal["text", "json"] = "text"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. Build it with `load_settings`, or directly in tests."""

    app_id: _Name = "dafu"
    broker: _Brokers = "127.0.0.1:9092"
    store: Literal["memory", "rocksdb"] = "memory"
    data_dir: Path = Path(".dafu-data")
    batch_records: Annotated[
        int, Meta(ge=1, le=100_000, description="an integer from 1 to 100000")
    ] = 1000
    fetch_max_wait_ms: (
        Annotated[int, Meta(ge=1, le=30_000, description="an integer from 1 to 30000")] | None
    ) = None
    """None for what suits the broker, see `dafu.streaming.waiting`."""
    commit_interval_s: Annotated[
        float, Meta(ge=0.01, le=3600.0, description="seconds from 0.01 to 3600")
    ] = 1.0
    worker_roles: _Roles = ("decisions", "rings")
    """What this worker is for; a gateway answers HTTP and decides nothing."""
    rules_file: Path = field(default_factory=lambda: find_conf("rules.yaml", {}))
    sequence_model: Path | str | None = None
    """Package of the recurrent model that steps through each user's transactions, if any."""
    model_path: Path | str | None = PACKAGE / "models" / "default"
    topics: Topics = Topics()
    source: Source = Source()
    schema_registry: SchemaRegistry = SchemaRegistry()
    thresholds: Thresholds = Thresholds()
    limits: Limits = Limits()
    rings: Rings = Rings()
    web: Web = Web()
    auth: Access = Access()
    health: Health = Health()
    log: Log = Log()
    security: Security = Security()
    origins: dict[str, str] = {}
    """Where each value that is no default came from, by setting; filled in by `load_settings`."""

    @property
    def bootstrap_servers(self) -> list[str]:
        """The brokers as a list of `host:port`."""
        return self.broker.split(",")

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for an aiokafka client that reaches the broker.

        Raises
        ------
        SettingsError
            When the CA file can not be read as certificates.
        """
        return {"bootstrap_servers": self.bootstrap_servers, **self.security.client_options()}

    def describe(self) -> str:
        """All settings with their origin, one a line, secrets hidden."""
        rows = []
        for name in SETTINGS:
            group, _, key = name.rpartition(".")
            value = getattr(getattr(self, group) if group else self, key)
            if name in SECRET and value is not None:
                value = "(hidden)"
            elif value is None:
                value = "none"
            elif value == "":
                value = "''"
            elif isinstance(value, tuple):
                value = ",".join(value) or "none"
            rows.append((name, str(value), self.origins.get(name, "default")))
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join(f"{n:<{widths[0]}}  {v:<{widths[1]}}  {o}" for n, v, o in rows)


GROUPS: Final[dict[str, type[Struct]]] = {
    "topics": Topics,
    "source": Source,
    "schema_registry": SchemaRegistry,
    "thresholds": Thresholds,
    "limits": Limits,
    "rings": Rings,
    "web": Web,
    "auth": Access,
    "health": Health,
    "log": Log,
    "security": Security,
}


def _settings() -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(Settings, include_extras=True).items():
        if name in GROUPS:
            group = get_type_hints(GROUPS[name], include_extras=True)
            yield from ((f"{name}.{key}", sub) for key, sub in group.items())
        elif name != "origins":
            yield name, kind


SETTINGS: Final[dict[str, Any]] = dict(_settings())
SECRET: Final = frozenset(
    {
        *("security.sasl_password", "security.ssl_key_password"),
        *("schema_registry.password", "schema_registry.ssl_key_password"),
        *("web.admin_key", "web.redis_url"),
    }
)
