"""Settings: defaults in code, then a YAML file, then the environment; every problem at once.

`load_settings` is the only function here that reads files or the environment. This module knows
no Kafka client, no Faust and nothing of fraud: it turns text into checked values and says where a
bad one came from.

The file is the one that DAFU_CONF names (a file, or a directory that holds `dafu.yaml`), else
`./conf/dafu.yaml`, else the one that comes with dafu. Paths in the file are relative to the file,
paths in the environment to the working directory. An empty environment variable counts as unset.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_type_hints

import msgspec
import yaml
from msgspec import Meta, Struct, field

from dafu.errors import DafuError
from dafu.stages.decide import Thresholds

__all__ = [
    "Limits",
    "Log",
    "Problem",
    "Security",
    "Settings",
    "SettingsError",
    "Thresholds",
    "Topics",
    "Web",
    "find_conf",
    "load_settings",
]

CONF_NAME: Final = "dafu.yaml"
_PACKAGE: Final = Path(__file__).resolve().parent

_NAME_RULE: Final = "letters, digits, '.', '_' and '-'"
_Name = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,200}\Z", description=f"1 to 200 {_NAME_RULE}")
]
_Prefix = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._-]{0,200}\Z", description=f"at most 200 {_NAME_RULE}")
]
_Brokers = Annotated[str, Meta(description="host:port[,host:port...], with or without kafka://")]


class Topics(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the Kafka topics and how missing ones are created."""

    prefix: _Prefix = ""
    partitions: Annotated[int, Meta(ge=1, le=4096, description="an integer from 1 to 4096")] = 1
    replication_factor: Annotated[int, Meta(ge=1, le=32, description="an integer from 1 to 32")] = 1

    @property
    def transactions(self) -> str:
        """Transactions as producers publish them, keyed by user."""
        return f"{self.prefix}transactions"

    @property
    def transactions_by_merchant(self) -> str:
        """What stage one hands to stage two, keyed by merchant."""
        return f"{self.prefix}transactions-by-merchant"

    @property
    def decisions(self) -> str:
        """One decision for every transaction, keyed by user."""
        return f"{self.prefix}decisions"

    @property
    def dead_letters(self) -> str:
        """Records that could not be read, as they came, with the reason in headers."""
        return f"{self.prefix}dead-letters"


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What input may be before it is refused."""

    max_future_skew_s: Annotated[
        float, Meta(ge=0.0, le=3.2e9, description="a number of seconds, 0 or more")
    ] = 86_400.0
    """A transaction's timestamp may be at most this far after its record's own timestamp."""


class Web(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the HTTP views listen."""

    host: Annotated[str, Meta(pattern=r"\A\S{1,253}\Z", description="a host name or address")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=1, le=65_535, description="a port from 1 to 65535")] = 6066


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    format: Literal["text", "json"] = "text"


class Security(Struct, frozen=True, forbid_unknown_fields=True):
    """How to talk to brokers that ask who is there. The password comes from the environment."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_user: str | None = None
    sasl_password: str | None = None
    ssl_cafile: Path | None = None

    def __repr__(self) -> str:
        password = "None" if self.sasl_password is None else "'***'"
        return (
            f"Security(protocol={self.protocol!r}, sasl_mechanism={self.sasl_mechanism!r}, "
            f"sasl_user={self.sasl_user!r}, sasl_password={password}, "
            f"ssl_cafile={self.ssl_cafile!r})"
        )

    @property
    def uses_sasl(self) -> bool:
        """Whether clients log in with a user and a password."""
        return self.protocol.startswith("SASL_")

    @property
    def uses_ssl(self) -> bool:
        """Whether connections are encrypted."""
        return self.protocol.endswith("SSL")

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for an aiokafka client, producer or consumer.

        Raises
        ------
        SettingsError
            When the CA file can not be read as certificates.
        """
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.uses_ssl:
            cafile = None if self.ssl_cafile is None else str(self.ssl_cafile)
            try:
                options["ssl_context"] = ssl.create_default_context(cafile=cafile)
            except OSError as exc:
                raise SettingsError(
                    [
                        Problem(
                            "security.ssl_cafile",
                            str(self.ssl_cafile),
                            f"can not be loaded: {exc}",
                            "a PEM file of CA certificates",
                        )
                    ]
                ) from exc
        if self.uses_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_user
            options["sasl_plain_password"] = self.sasl_password
        return options


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. Build it with `load_settings`, or directly in tests."""

    app_id: _Name = "dafu"
    broker: _Brokers = "127.0.0.1:9092"
    store: Literal["memory", "rocksdb"] = "memory"
    data_dir: Path = Path(".dafu-data")
    batch_records: Annotated[
        int, Meta(ge=1, le=100_000, description="an integer from 1 to 100000")
    ] = 1000
    fetch_max_wait_ms: Annotated[
        int, Meta(ge=1, le=30_000, description="an integer from 1 to 30000")
    ] = 5
    commit_interval_s: Annotated[
        float, Meta(ge=0.01, le=3600.0, description="seconds from 0.01 to 3600")
    ] = 1.0
    rules_file: Path = field(default_factory=lambda: find_conf("rules.yaml", {}))
    model_path: Path | None = _PACKAGE / "models" / "default"
    topics: Topics = Topics()
    thresholds: Thresholds = Thresholds()
    limits: Limits = Limits()
    web: Web = Web()
    log: Log = Log()
    security: Security = Security()
    origins: dict[str, str] = {}
    """Where each value that is no default came from, by setting; filled in by `load_settings`."""

    @property
    def bootstrap_servers(self) -> list[str]:
        """The brokers as a list of `host:port`."""
        return self.broker.split(",")

    def describe(self) -> str:
        """All settings with their origin, one a line, secrets hidden."""
        rows = []
        for name in _SETTINGS:
            group, _, key = name.rpartition(".")
            value = getattr(getattr(self, group) if group else self, key)
            if name in _SECRET and value is not None:
                value = "(hidden)"
            elif value is None:
                value = "none"
            elif value == "":
                value = "''"
            rows.append((name, str(value), self.origins.get(name, "default")))
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join(f"{n:<{widths[0]}}  {v:<{widths[1]}}  {o}" for n, v, o in rows)


class Problem(NamedTuple):
    """One thing that is wrong: which setting, from where, what, and what would be right."""

    setting: str
    origin: str
    what: str
    allowed: str = ""

    def __str__(self) -> str:
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.setting} ({self.origin}): {self.what}{allowed}"


class SettingsError(DafuError):
    """The settings do not hold; `problems` lists everything that is wrong with them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the settings have {count}:\n{lines}")


_GROUPS: Final[dict[str, type[Struct]]] = {
    "topics": Topics,
    "thresholds": Thresholds,
    "limits": Limits,
    "web": Web,
    "log": Log,
    "security": Security,
}


def _settings() -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(Settings, include_extras=True).items():
        if name in _GROUPS:
            group = get_type_hints(_GROUPS[name], include_extras=True)
            yield from ((f"{name}.{key}", sub) for key, sub in group.items())
        elif name != "origins":
            yield name, kind


_SETTINGS: Final[dict[str, Any]] = dict(_settings())
_SECRET: Final = frozenset({"security.sasl_password"})

ENVIRONMENT: Final[dict[str, str]] = {
    "DAFU_APP_ID": "app_id",
    "DAFU_BROKER": "broker",
    "DAFU_STORE": "store",
    "DAFU_DATA_DIR": "data_dir",
    "DAFU_BATCH_RECORDS": "batch_records",
    "DAFU_FETCH_MAX_WAIT_MS": "fetch_max_wait_ms",
    "DAFU_COMMIT_INTERVAL": "commit_interval_s",
    "DAFU_RULES": "rules_file",
    "MODEL_STORAGE_PATH": "model_path",
    "DAFU_TOPIC_PREFIX": "topics.prefix",
    "DAFU_PARTITIONS": "topics.partitions",
    "DAFU_REPLICATION_FACTOR": "topics.replication_factor",
    "FRAUD_THRESHOLD": "thresholds.fraud",
    "BLOCK_THRESHOLD": "thresholds.block",
    "DAFU_MAX_FUTURE_SKEW": "limits.max_future_skew_s",
    "DAFU_WEB_HOST": "web.host",
    "DAFU_WEB_PORT": "web.port",
    "LOG_LEVEL": "log.level",
    "LOG_FORMAT": "log.format",
    "DAFU_SECURITY_PROTOCOL": "security.protocol",
    "DAFU_SASL_MECHANISM": "security.sasl_mechanism",
    "DAFU_SASL_USER": "security.sasl_user",
    "DAFU_SASL_PASSWORD": "security.sasl_password",
    "DAFU_SSL_CAFILE": "security.ssl_cafile",
}
"""Environment variables and the settings they set."""


def find_conf(name: str, environ: Mapping[str, str] | None = None) -> Path:
    """Where the configuration file `name` is, such as `rules.yaml` or `mappings/dafu.yaml`.

    The first that exists of: the directory that DAFU_CONF names (or the one its file is in),
    `./conf`, the files that come with dafu. Without any, where it would be among the last.
    """
    environ = os.environ if environ is None else environ
    packaged = _PACKAGE / "_conf"
    if not packaged.is_dir():
        packaged = _PACKAGE.parent / "conf"
    candidates = [Path("conf") / name, packaged / name]
    if given := environ.get("DAFU_CONF"):
        base = Path(given).expanduser()
        candidates.insert(0, (base if base.is_dir() else base.parent) / name)
    return next((path for path in candidates if path.is_file()), candidates[-1])


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the configuration file and the environment.

    Parameters
    ----------
    environ
        The environment to read, `os.environ` by default.

    Raises
    ------
    SettingsError
        With every problem found in the file and the environment.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    values: dict[str, Any] = {"rules_file": find_conf("rules.yaml", environ)}
    origins: dict[str, str] = {}
    for name, raw, origin, base in [
        *_from_file(environ, problems),
        *_from_environment(environ, problems),
    ]:
        try:
            values[name] = _value(name, raw, base)
        except ValueError as exc:
            what = "is not acceptable" if name in _SECRET else str(exc)
            problems.append(Problem(name, origin, what, _allowed(_SETTINGS[name])))
        else:
            origins[name] = origin
    settings = _build(values, origins)
    problems.extend(_contradictions(settings, {problem.setting for problem in problems}))
    if problems:
        raise SettingsError(problems)
    return settings


_Given = tuple[str, Any, str, Path]  # setting, value, origin, what paths are relative to


def _conf_file(environ: Mapping[str, str], problems: list[Problem]) -> Path | None:
    given = environ.get("DAFU_CONF")
    if not given:
        path = find_conf(CONF_NAME, environ)
        return path if path.is_file() else None
    path = Path(given).expanduser()
    if path.is_dir():
        path /= CONF_NAME
    if not path.is_file():
        what = f"there is no file {path}"
        problems.append(
            Problem("DAFU_CONF", "environment", what, f"a file, or a directory with {CONF_NAME}")
        )
        return None
    return path


def _from_file(environ: Mapping[str, str], problems: list[Problem]) -> Iterator[_Given]:
    path = _conf_file(environ, problems)
    if path is None:
        return
    loader = None
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is not None:
            yield from _from_node(path, loader, root, "", problems)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        text = " ".join(str(exc).split())
        problems.append(Problem(str(path), "file", f"can not be read: {text}", "a YAML mapping"))
    finally:
        if loader is not None:
            loader.dispose()


def _from_node(
    path: Path, loader: yaml.SafeLoader, node: yaml.Node, group: str, problems: list[Problem]
) -> Iterator[_Given]:
    """Settings below one YAML mapping; keys that are none become problems."""
    if not isinstance(node, yaml.MappingNode):
        origin = f"{path}:{node.start_mark.line + 1}"
        problems.append(
            Problem(group or CONF_NAME, origin, "is no mapping", "`key: value` lines below it")
        )
        return
    inside = _GROUPS[group] if group else Settings
    known = [name for name in inside.__struct_fields__ if name != "origins"]
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        name = f"{group}.{key}" if group else key
        origin = f"{path}:{key_node.start_mark.line + 1}"
        if key in seen:
            problems.append(Problem(name, origin, "is set twice", "each setting once"))
        elif key not in known:
            problems.append(Problem(name, origin, f"unknown setting{_suggest(key, known, group)}"))
        elif name in _SECRET:
            where = next(env for env, setting in ENVIRONMENT.items() if setting == name)
            problems.append(
                Problem(name, origin, "a secret does not belong in a file", f"only in {where}")
            )
        elif not group and key in _GROUPS:
            if value_node.tag != "tag:yaml.org,2002:null":
                yield from _from_node(path, loader, value_node, key, problems)
        else:
            value = loader.construct_object(value_node, deep=True)
            if value is not None or name == "model_path":
                yield name, value, origin, path.parent
        seen.add(key)


def _suggest(key: str, known: list[str], group: str) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    elsewhere = [name for name in _SETTINGS if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"; did you mean `{elsewhere[0]}`?"
    return f"; {'in ' + group if group else 'at the top'} there are: {', '.join(known)}"


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> Iterator[_Given]:
    for variable, name in ENVIRONMENT.items():
        text = environ.get(variable)
        if text:
            yield name, text, variable, Path()
    # Others may own a variable that starts with DAFU_; one that is nearly ours is a slip.
    ours = [*ENVIRONMENT, "DAFU_CONF"]
    for variable in sorted(environ):
        if variable.startswith("DAFU_") and variable not in ours:
            close = difflib.get_close_matches(variable, ours, n=1, cutoff=0.87)
            if close:
                what = f"unknown variable; did you mean `{close[0]}`?"
                problems.append(Problem(variable, "environment", what))


def _value(name: str, raw: Any, base: Path) -> Any:
    """Check and convert one value; raises ValueError that says what is wrong with it."""
    kind = _SETTINGS[name]
    if kind in (Path, Path | None):
        return _path(name, raw, base)
    if isinstance(raw, str):
        raw = _normal(name, raw.strip() if name not in _SECRET else raw)
    try:
        # A file has types of its own, the environment has text only; both may write numbers.
        value = msgspec.convert(raw, kind, strict=not isinstance(raw, str))
    except msgspec.ValidationError as exc:
        raise ValueError(f"{raw!r} is not right: {str(exc)[0].lower()}{str(exc)[1:]}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{raw!r} is not a finite number")
    return value


def _path(name: str, raw: Any, base: Path) -> Path | None:
    if name == "model_path" and (raw is None or raw == "none"):
        return None
    if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
        raise ValueError(f"{raw!r} is not a path")
    path = base / Path(raw.strip()).expanduser()
    if name in ("rules_file", "security.ssl_cafile") and not path.is_file():
        raise ValueError(f"there is no file {path}")
    if name == "data_dir" and path.exists() and not path.is_dir():
        raise ValueError(f"{path} exists and is not a directory")
    return path


_HOST_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9._-]+):(\d{1,5})\Z")


def _normal(name: str, text: str) -> str:
    """The one spelling of a value that may be written in several ways."""
    if name == "broker":
        return ",".join(_broker(part.strip()) for part in re.split("[,;]", text))
    if name == "store":
        return text.removesuffix("://").lower()
    if name in ("log.level", "security.protocol", "security.sasl_mechanism"):
        return "WARNING" if text.upper() == "WARN" else text.upper()
    return text.lower() if name == "log.format" else text


def _broker(text: str) -> str:
    address = text.removeprefix("kafka://")
    match = _HOST_PORT.match(address)
    if match is None:
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(match[1]) <= 65_535:
        raise ValueError(f"{text!r} has a port that is not from 1 to 65535")
    return address


def _allowed(kind: Any) -> str:
    for meta in getattr(kind, "__metadata__", ()):
        if meta.description:
            return str(meta.description)
    if choices := [choice for choice in getattr(kind, "__args__", ()) if isinstance(choice, str)]:
        return ", ".join(choices)
    return "text" if kind in (str, str | None) else "a path"


def _build(values: Mapping[str, Any], origins: dict[str, str]) -> Settings:
    top = {name: value for name, value in values.items() if "." not in name}
    for group, kind in _GROUPS.items():
        members = {
            name.partition(".")[2]: value
            for name, value in values.items()
            if name.startswith(f"{group}.")
        }
        top[group] = kind(**members)
    return Settings(**top, origins=origins)


_ORDERED: Final = (
    ("thresholds.fraud", "thresholds.block", False),
    ("thresholds.medium", "thresholds.high", True),
    ("thresholds.high", "thresholds.critical", True),
)


def _contradictions(settings: Settings, bad: set[str]) -> Iterator[Problem]:
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
    security = settings.security
    if security.uses_sasl:
        for name, variable in (
            ("sasl_user", "DAFU_SASL_USER"),
            ("sasl_password", "DAFU_SASL_PASSWORD"),
        ):
            if not getattr(security, name) and f"security.{name}" not in bad:
                yield Problem(
                    f"security.{name}",
                    origin("security.protocol"),
                    f"is missing, and {security.protocol} needs it",
                    f"set {variable}",
                )
