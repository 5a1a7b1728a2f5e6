"""Settings from a YAML file and the environment: every problem at once, each with its origin.

`load_settings` is the only function here that reads files or the environment.

The file is the one that DAFU_CONF names (a file, or a directory that holds `dafu.yaml`), else
`./conf/dafu.yaml`, else the one that comes with dafu. Paths in the file are relative to the file,
paths in the environment to the working directory. An empty environment variable counts as unset.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from dafu.settings.consistency import contradictions
from dafu.settings.files import CONF_NAME, find_conf
from dafu.settings.model import GROUPS, SECRET, SETTINGS, Settings
from dafu.settings.problems import Problem, SettingsError
from dafu.settings.values import MODELS, allowed, checked

ENVIRONMENT: Final[dict[str, str]] = {
    "DAFU_APP_ID": "app_id",
    "DAFU_BROKER": "broker",
    "DAFU_STORE": "store",
    "DAFU_DATA_DIR": "data_dir",
    "DAFU_BATCH_RECORDS": "batch_records",
    "DAFU_FETCH_MAX_WAIT_MS": "fetch_max_wait_ms",
    "DAFU_COMMIT_INTERVAL": "commit_interval_s",
    "DAFU_WORKER_ROLES": "worker_roles",
    "DAFU_RULES": "rules_file",
    "MODEL_STORAGE_PATH": "model_path",
    "DAFU_SEQUENCE_MODEL": "sequence_model",
    "DAFU_TOPIC_PREFIX": "topics.prefix",
    "DAFU_TOPIC_NAMES": "topics.names",
    "DAFU_SOURCE_TOPIC": "source.topic",
    "DAFU_SOURCE_MAPPING": "source.mapping",
    "DAFU_SOURCE_FORMAT": "source.format",
    "DAFU_SCHEMA_REGISTRY_URLS": "schema_registry.urls",
    "DAFU_SCHEMA_REGISTRY_USER": "schema_registry.user",
    "DAFU_SCHEMA_REGISTRY_PASSWORD": "schema_registry.password",
    "DAFU_SCHEMA_REGISTRY_SSL_CAFILE": "schema_registry.ssl_cafile",
    "DAFU_SCHEMA_REGISTRY_SSL_CERTFILE": "schema_registry.ssl_certfile",
    "DAFU_SCHEMA_REGISTRY_SSL_KEYFILE": "schema_registry.ssl_keyfile",
    "DAFU_SCHEMA_REGISTRY_SSL_KEY_PASSWORD": "schema_registry.ssl_key_password",
    "DAFU_PARTITIONS": "topics.partitions",
    "DAFU_REPLICATION_FACTOR": "topics.replication_factor",
    "DAFU_MIN_INSYNC_REPLICAS": "topics.min_insync_replicas",
    "DAFU_TRANSACTIONS_RETENTION_DAYS": "topics.transactions_retention_days",
    "DAFU_RETENTION_DAYS": "topics.retention_days",
    "DAFU_DEAD_LETTERS_RETENTION_DAYS": "topics.dead_letters_retention_days",
    "DAFU_AUDIT_RETENTION_DAYS": "topics.audit_retention_days",
    "DAFU_COMPACTION_LAG": "topics.compaction_lag_s",
    "FRAUD_THRESHOLD": "thresholds.fraud",
    "BLOCK_THRESHOLD": "thresholds.block",
    "DAFU_MAX_FUTURE_SKEW": "limits.max_future_skew_s",
    "DAFU_RINGS": "rings.enabled",
    "DAFU_WEB_HOST": "web.host",
    "DAFU_WEB_PORT": "web.port",
    "DAFU_ADMIN_KEY": "web.admin_key",
    "DAFU_SCORE_TIMEOUT_MS": "web.score_timeout_ms",
    "DAFU_SCORE_FALLBACK": "web.score_fallback",
    "DAFU_ANALYZE_DIRS": "web.analyze_dirs",
    "DAFU_ANALYZE_URLS": "web.analyze_urls",
    "DAFU_ADVERTISED_URL": "web.advertised_url",
    "DAFU_TLS_CERT": "web.tls_cert",
    "DAFU_TLS_KEY": "web.tls_key",
    "DAFU_BEHIND_PROXY": "web.behind_proxy",
    "DAFU_ALLOWED_HOSTS": "web.allowed_hosts",
    "DAFU_CORS_ORIGINS": "web.cors_origins",
    "DAFU_MAX_BODY_BYTES": "web.max_body_bytes",
    "DAFU_REQUEST_SECONDS": "web.request_seconds",
    "DAFU_READS_PER_MINUTE": "web.reads_per_minute",
    "DAFU_SCORES_PER_MINUTE": "web.scores_per_minute",
    "DAFU_CHANGES_PER_MINUTE": "web.changes_per_minute",
    "DAFU_SIGN_INS_PER_MINUTE": "web.sign_ins_per_minute",
    "REDIS_URL": "web.redis_url",
    "DAFU_AUTH_FILE": "auth.file",
    "DAFU_SIGNING_KEY": "auth.signing_key",
    "DAFU_TOKEN_MINUTES": "auth.token_minutes",
    "DAFU_SESSION_HOURS": "auth.session_hours",
    "DAFU_IDP_ISSUER": "auth.idp_issuer",
    "DAFU_IDP_AUDIENCE": "auth.idp_audience",
    "DAFU_IDP_JWKS_URL": "auth.idp_jwks_url",
    "DAFU_IDP_NAME_CLAIM": "auth.idp_name_claim",
    "DAFU_IDP_ROLES_CLAIM": "auth.idp_roles_claim",
    "DAFU_IDP_ROLES": "auth.idp_roles",
    "DAFU_READY_STALL": "health.ready_stall_s",
    "DAFU_WATCHDOG": "health.watchdog_s",
    "DAFU_STOP_DEADLINE": "health.stop_deadline_s",
    "LOG_LEVEL": "log.level",
    "LOG_FORMAT": "log.format",
    "DAFU_SECURITY_PROTOCOL": "security.protocol",
    "DAFU_SASL_MECHANISM": "security.sasl_mechanism",
    "DAFU_SASL_USER": "security.sasl_user",
    "DAFU_SASL_PASSWORD": "security.sasl_password",
    "DAFU_OAUTH_TOKEN_URL": "security.oauth_token_url",
    "DAFU_OAUTH_SCOPE": "security.oauth_scope",
    "DAFU_OAUTH_EXTENSIONS": "security.oauth_extensions",
    "DAFU_SSL_CAFILE": "security.ssl_cafile",
    "DAFU_SSL_CERTFILE": "security.ssl_certfile",
    "DAFU_SSL_KEYFILE": "security.ssl_keyfile",
    "DAFU_SSL_KEY_PASSWORD": "security.ssl_key_password",
}
"""Environment variables and the settings they set."""


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
            values[name] = checked(name, raw, base)
        except ValueError as exc:
            what = "is not acceptable" if name in SECRET else str(exc)
            problems.append(Problem(name, origin, what, allowed(SETTINGS[name])))
        else:
            origins[name] = origin
    settings = _build(values, origins)
    problems.extend(contradictions(settings, {problem.setting for problem in problems}))
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
    inside = GROUPS[group] if group else Settings
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
        elif name in SECRET:
            where = next(env for env, setting in ENVIRONMENT.items() if setting == name)
            problems.append(
                Problem(name, origin, "a secret does not belong in a file", f"only in {where}")
            )
        elif not group and key in GROUPS:
            if value_node.tag != "tag:yaml.org,2002:null":
                yield from _from_node(path, loader, value_node, key, problems)
        else:
            value = loader.construct_object(value_node, deep=True)
            if value is not None or name in MODELS:
                yield name, value, origin, path.parent
        seen.add(key)


def _suggest(key: str, known: list[str], group: str) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    elsewhere = [name for name in SETTINGS if name.rpartition(".")[2] == key]
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


def _build(values: Mapping[str, Any], origins: dict[str, str]) -> Settings:
    top = {name: value for name, value in values.items() if "." not in name}
    for group, kind in GROUPS.items():
        members = {
            name.partition(".")[2]: value
            for name, value in values.items()
            if name.startswith(f"{group}.")
        }
        top[group] = kind(**members)
    return Settings(**top, origins=origins)
