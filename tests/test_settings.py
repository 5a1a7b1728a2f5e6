"""Settings: precedence, every problem at once with its origin, nothing secret shown."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from dafu.settings import (
    ENVIRONMENT,
    Settings,
    SettingsError,
    Thresholds,
    Topics,
    Web,
    find_conf,
    load_settings,
)
from tests.web.certificates import certified

ROOT = Path(__file__).resolve().parents[1]


def conf(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "dafu.yaml"
    path.write_text(text)
    return {"DAFU_CONF": str(path)}


def problems(environ: dict[str, str]) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return {problem.setting: str(problem) for problem in caught.value.problems}


def test_shipped_file_holds_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # away from ./conf, which would come first
    shipped = load_settings({"DAFU_CONF": str(ROOT / "conf")})
    assert msgspec.structs.replace(shipped, origins={}) == Settings()


def test_every_setting_that_the_shipped_file_names_in_a_comment_exists() -> None:
    text = (ROOT / "conf" / "dafu.yaml").read_text()
    for variable in ENVIRONMENT:
        assert variable in text, f"{variable} is not documented in conf/dafu.yaml"


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({})
    assert settings.broker == "127.0.0.1:9092"
    assert settings.data_dir == Path(".dafu-data")
    assert isinstance(settings.model_path, Path)
    assert settings.model_path.parts[-3:] == ("dafu", "models", "default")
    assert settings.rules_file.name == "rules.yaml"
    assert settings.thresholds == Thresholds(0.7, 0.9, 0.3, 0.6, 0.85)
    topics = settings.topics
    assert topics.transactions == "transactions"
    assert topics.transactions_by_merchant == "transactions-by-merchant"
    assert topics.decisions == "decisions"
    assert topics.dead_letters == "dead-letters"


def test_news_of_rings_have_one_order_and_so_one_partition() -> None:
    topics = Topics(prefix="eu.", partitions=12)
    assert topics.partitions_of("eu.links") == 1
    others = (topics.identifiers, topics.fraud_rings, topics.ring_membership, topics.decisions)
    assert {topics.partitions_of(name) for name in (*others, "links")} == {12}


def test_environment_wins_over_file_wins_over_default(tmp_path: Path) -> None:
    environ = conf(tmp_path, "app_id: from-file\nbatch_records: 7\nweb: {port: 8000}\n")
    environ |= {"DAFU_APP_ID": "from-env", "DAFU_TOPIC_PREFIX": "eu."}
    settings = load_settings(environ)
    assert settings.app_id == "from-env"
    assert settings.batch_records == 7
    assert settings.web.port == 8000
    assert settings.web.host == "127.0.0.1"
    assert settings.topics.decisions == "eu.decisions"
    assert settings.topics.links == "eu.links"
    assert settings.origins["web.port"].endswith("dafu.yaml:3")
    assert settings.origins["app_id"] == "DAFU_APP_ID"


def test_working_directory_comes_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "dafu.yaml").write_text("app_id: here\n")
    (tmp_path / "conf" / "rules.yaml").write_text("")
    settings = load_settings({})
    assert settings.app_id == "here"
    assert settings.rules_file == Path("conf/rules.yaml")
    assert find_conf("dafu.yaml", {}) == Path("conf/dafu.yaml")


def test_rules_beside_the_named_file_are_the_default(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("")
    assert load_settings(conf(tmp_path, "")).rules_file == tmp_path / "rules.yaml"


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    settings = load_settings(conf(tmp_path, "rules_file: mine.yaml\nmodel_path: m\ndata_dir: d\n"))
    assert settings.rules_file == tmp_path / "mine.yaml"
    assert settings.model_path == tmp_path / "m"
    assert settings.data_dir == tmp_path / "d"


@pytest.mark.parametrize("text", ["model_path: none", "model_path: null", "model_path:"])
def test_no_model(tmp_path: Path, text: str) -> None:
    assert load_settings(conf(tmp_path, text)).model_path is None
    assert load_settings({"MODEL_STORAGE_PATH": "none"}).model_path is None


def test_a_model_may_be_at_a_url(tmp_path: Path) -> None:
    url = "s3://models/2026-03"
    assert load_settings(conf(tmp_path, f"model_path: {url}\n")).model_path == url
    assert load_settings({"MODEL_STORAGE_PATH": url}).model_path == url


@pytest.mark.parametrize(
    ("variable", "text", "setting", "expected"),
    [
        ("DAFU_BROKER", "kafka://a:1", "broker", "a:1"),
        ("DAFU_BROKER", "kafka://a:1, kafka://b-2.c:9093", "broker", "a:1,b-2.c:9093"),
        ("DAFU_BROKER", "[::1]:9092", "broker", "[::1]:9092"),
        ("DAFU_STORE", "rocksdb://", "store", "rocksdb"),
        ("DAFU_STORE", "memory://", "store", "memory"),
        ("DAFU_BATCH_RECORDS", "12", "batch_records", 12),
        ("DAFU_COMMIT_INTERVAL", "2", "commit_interval_s", 2.0),
        ("DAFU_APP_ID", "", "app_id", "dafu"),
        ("DAFU_APP_ID", "12", "app_id", "12"),
    ],
)
def test_spellings(variable: str, text: str, setting: str, expected: object) -> None:
    assert getattr(load_settings({variable: text}), setting) == expected


def test_log_spellings() -> None:
    log = load_settings({"LOG_LEVEL": "warn", "LOG_FORMAT": "JSON"}).log
    assert (log.level, log.format) == ("WARNING", "json")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DAFU_BROKER", "localhost"),
        ("DAFU_BROKER", "localhost:0"),
        ("DAFU_BROKER", "localhost:70000"),
        ("DAFU_BROKER", "http://localhost:9092"),
        ("DAFU_BROKER", "a:1,"),
        ("DAFU_STORE", "redis://"),
        ("DAFU_PARTITIONS", "0"),
        ("DAFU_PARTITIONS", "two"),
        ("DAFU_PARTITIONS", "1.5"),
        ("DAFU_MIN_INSYNC_REPLICAS", "-1"),
        ("DAFU_RETENTION_DAYS", "week"),
        ("DAFU_TRANSACTIONS_RETENTION_DAYS", "-1"),
        ("DAFU_COMPACTION_LAG", "1h"),
        ("DAFU_WATCHDOG", "-1"),
        ("DAFU_STOP_DEADLINE", "0"),
        ("DAFU_READY_STALL", "inf"),
        ("DAFU_TOPIC_PREFIX", "a b"),
        ("DAFU_TOPIC_PREFIX", "a\tb"),
        ("DAFU_WEB_PORT", "65536"),
        ("FRAUD_THRESHOLD", "70"),
        ("FRAUD_THRESHOLD", "nan"),
        ("FRAUD_THRESHOLD", "-0.1"),
        ("DAFU_MAX_FUTURE_SKEW", "inf"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("DAFU_SECURITY_PROTOCOL", "TLS"),
        ("DAFU_RULES", "no/such/rules.yaml"),
        ("DAFU_SSL_CAFILE", "no/such/ca.pem"),
        ("DAFU_DATA_DIR", __file__),
    ],
)
def test_bad_values_name_the_variable(variable: str, text: str) -> None:
    found = problems({variable: text})
    assert list(found) == [ENVIRONMENT[variable]]
    assert f"({variable})" in found[ENVIRONMENT[variable]]
    assert "allowed: " in found[ENVIRONMENT[variable]]


def test_all_problems_at_once_with_their_lines(tmp_path: Path) -> None:
    environ = conf(
        tmp_path,
        "app_id: 5\n"
        "brocker: a:1\n"
        "topics:\n"
        "  partitions: 0\n"
        "  prefix: x\n"
        "  prefix: y\n"
        "thresholds: {fraude: 0.5}\n"
        "port: 80\n"
        "web: yes\n",
    )
    environ["DAFU_WEB_PORT"] = "http"
    environ["DAFU_TOPICS_PREFIX"] = "x"
    found = problems(environ)
    name = environ["DAFU_CONF"]
    assert f"{name}:1" in found["app_id"]
    assert f"{name}:2" in found["brocker"]
    assert "did you mean `broker`?" in found["brocker"]
    assert f"{name}:4" in found["topics.partitions"]
    assert f"{name}:6" in found["topics.prefix"]
    assert "twice" in found["topics.prefix"]
    assert "did you mean `fraud`?" in found["thresholds.fraude"]
    assert "did you mean `web.port`?" in found["port"]
    assert f"{name}:9" in found["web"]
    assert "DAFU_WEB_PORT" in found["web.port"]
    assert "did you mean `DAFU_TOPIC_PREFIX`?" in found["DAFU_TOPICS_PREFIX"]
    assert len(found) == 9


def test_variables_of_others_are_left_alone() -> None:
    assert load_settings({"DAFU_TEST_BROKER": "embedded", "DAFU_PORT_6066_TCP": "x"}).app_id


@pytest.mark.parametrize(
    "text",
    ["thresholds: {fraud: 0.95}", "thresholds: {high: 0.3}", "thresholds: {critical: 0.5}"],
)
def test_thresholds_are_in_order(tmp_path: Path, text: str) -> None:
    (found,) = problems(conf(tmp_path, text)).values()
    assert "in order" in found
    assert "dafu.yaml:1" in found


def test_equal_fraud_and_block_means_no_review(tmp_path: Path) -> None:
    assert load_settings({"FRAUD_THRESHOLD": "0.9"}).thresholds.fraud == 0.9


def test_in_sync_replicas_are_no_more_than_there_are(tmp_path: Path) -> None:
    (found,) = problems({"DAFU_MIN_INSYNC_REPLICAS": "3"}).items()
    assert found[0] == "topics.min_insync_replicas"
    assert "more than topics.replication_factor" in found[1]
    environ = {"DAFU_MIN_INSYNC_REPLICAS": "3", "DAFU_REPLICATION_FACTOR": "3"}
    assert load_settings(environ).topics.insync_replicas == 3


def test_a_decision_is_not_waited_for_longer_than_an_answer_may_take() -> None:
    (found,) = problems({"DAFU_SCORE_TIMEOUT_MS": "30000"}).items()
    assert found[0] == "web.score_timeout_ms"
    assert "30000 is more than 27000, nine tenths of web.request_seconds, which is 30" in found[1]
    environ = {"DAFU_SCORE_TIMEOUT_MS": "30000", "DAFU_REQUEST_SECONDS": "40"}
    assert load_settings(environ).web.longest_wait_ms == 36_000


def test_a_worker_may_have_some_roles_only() -> None:
    assert load_settings({}).worker_roles == ("decisions", "rings")
    assert load_settings({"DAFU_WORKER_ROLES": "rings"}).worker_roles == ("rings",)
    assert load_settings({"DAFU_WORKER_ROLES": "gateway"}).worker_roles == ("gateway",)
    assert load_settings({"DAFU_RINGS": "false"}).worker_roles, "there are decisions to make"


@pytest.mark.parametrize(
    ("roles", "rings", "said"),
    [
        ("gateway,decisions", "true", "a gateway is nothing besides"),
        ("rings", "false", "there is nothing to do"),
        ("scores", "true", "is not right"),
        (",", "true", "is not right"),
    ],
)
def test_roles_that_make_no_worker(roles: str, rings: str, said: str) -> None:
    (found,) = problems({"DAFU_WORKER_ROLES": roles, "DAFU_RINGS": rings}).items()
    assert found[0] == "worker_roles"
    assert said in found[1]
    assert "gateway" in found[1] or "rings.enabled" in found[1]


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\ta: 1\n", "a: !!python/name:os.system\n"])
def test_files_that_are_no_settings(tmp_path: Path, text: str) -> None:
    assert "dafu.yaml" in " ".join(problems(conf(tmp_path, text)).values())


def test_file_that_is_missing(tmp_path: Path) -> None:
    assert "there is no file" in problems({"DAFU_CONF": str(tmp_path / "x.yaml")})["DAFU_CONF"]
    assert "there is no file" in problems({"DAFU_CONF": str(tmp_path)})["DAFU_CONF"]


def test_topics_may_have_names_of_their_own(tmp_path: Path) -> None:
    names = "transactions=core.payments.v1, dead-letters=core.dlq"
    topics = load_settings({"DAFU_TOPIC_PREFIX": "eu.", "DAFU_TOPIC_NAMES": names}).topics
    assert (topics.transactions, topics.dead_letters) == ("core.payments.v1", "core.dlq")
    assert (topics.decisions, topics.transactions_by_merchant) == (
        "eu.decisions",
        "eu.transactions-by-merchant",
    )
    assert load_settings(conf(tmp_path, "topics: {names: [links=l]}\n")).topics.links == "l"
    for wrong in ("payments=x", "links", "links=", "links=a b", "dead_letters=x"):
        found = problems({"DAFU_TOPIC_NAMES": wrong})
        assert "topic=name" in found["topics.names"], wrong
    twice = problems({"DAFU_TOPIC_PREFIX": "eu.", "DAFU_TOPIC_NAMES": "links=eu.decisions"})
    assert "eu.decisions would be two topics" in twice["topics.names"]
    assert "two topics" in problems({"DAFU_TOPIC_NAMES": "links=a,audit=a"})["topics.names"]
    # The first would count without a word.
    assert "two names" in problems({"DAFU_TOPIC_NAMES": "links=a,links=b"})["topics.names"]


SASL = {"DAFU_SECURITY_PROTOCOL": "sasl_plaintext", "DAFU_SASL_USER": "u"}


def test_sasl_needs_a_password() -> None:
    assert "DAFU_SASL_PASSWORD" in problems(SASL)["security.sasl_password"]
    security = load_settings(SASL | {"DAFU_SASL_PASSWORD": " s3 "}).security
    assert security.client_options() == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "u",
        "sasl_plain_password": " s3 ",
    }


def test_payments_come_from_no_topic_of_dafus_own() -> None:
    assert load_settings({"DAFU_SOURCE_TOPIC": "decisions", "DAFU_TOPIC_PREFIX": "eu."})
    for environ in (
        {"DAFU_SOURCE_TOPIC": "decisions"},
        {"DAFU_SOURCE_TOPIC": "core", "DAFU_TOPIC_NAMES": "labels=core"},
    ):
        found = problems(environ)
        assert "is one of dafu's own topics" in found["source.topic"]


AVRO = {
    "DAFU_SOURCE_TOPIC": "core",
    "DAFU_SOURCE_FORMAT": "Avro",
    "DAFU_SCHEMA_REGISTRY_URLS": "https://one:8081/api, https://two",
}


def test_avro_needs_a_registry_and_a_topic() -> None:
    settings = load_settings(AVRO)
    assert settings.source.format == "avro"
    assert settings.schema_registry.urls == ("https://one:8081/api", "https://two")

    def without(name: str) -> dict[str, str]:
        return problems({k: v for k, v in AVRO.items() if k != name})

    (found,) = without("DAFU_SCHEMA_REGISTRY_URLS").items()
    assert found[0] == "schema_registry.urls"
    assert "is missing, and avro needs it; allowed: set DAFU_SCHEMA_REGISTRY_URLS" in found[1]
    (found,) = without("DAFU_SOURCE_TOPIC").items()
    assert found[0] == "source.format"
    assert "avro is of no use without source.topic" in found[1]
    (found,) = without("DAFU_SOURCE_FORMAT").items()
    assert found[0] == "schema_registry.urls"
    assert "is of no use with json" in found[1]
    framed = problems(AVRO | {"DAFU_SOURCE_FORMAT": "json-schema"})
    assert "is of no use with json-schema" in framed["schema_registry.urls"]
    assert load_settings({"DAFU_SOURCE_TOPIC": "core", "DAFU_SOURCE_FORMAT": "json-schema"})
    # What is wrong by itself is told once.
    assert list(problems(AVRO | {"DAFU_SOURCE_FORMAT": "protobuf"})) == ["source.format"]
    for wrong in ("registry:8081", "ftp://a", "https://u:p@a", "https://a?b", "https://"):
        assert list(problems(AVRO | {"DAFU_SCHEMA_REGISTRY_URLS": wrong})) == [
            "schema_registry.urls"
        ]
    assert "DAFU_SCHEMA_REGISTRY_URL" in problems({"DAFU_SCHEMA_REGISTRY_URL": "https://one"})


def test_a_registrys_user_and_password_belong_together_and_stay_hidden(tmp_path: Path) -> None:
    login = {"DAFU_SCHEMA_REGISTRY_USER": "u", "DAFU_SCHEMA_REGISTRY_PASSWORD": "hunter2"}
    settings = load_settings(AVRO | login)
    assert settings.schema_registry.password == "hunter2"
    assert "hunter2" not in settings.describe() + repr(settings)
    for name in ("user", "password"):
        variable = f"DAFU_SCHEMA_REGISTRY_{name.upper()}"
        (found,) = problems(AVRO | {k: v for k, v in login.items() if k != variable}).items()
        assert found[0] == f"schema_registry.{name}"
        assert "is missing; allowed: user and password, or neither" in found[1]
    assert "schema_registry.user" in problems(AVRO | login | {"DAFU_SCHEMA_REGISTRY_USER": "a:b"})
    for url in ("http://registry:8081", "https://one,http://10.0.0.1", "http://localhost.org"):
        clear = problems(AVRO | login | {"DAFU_SCHEMA_REGISTRY_URLS": url})
        assert f"would go to {url.split(',')[-1]} in clear" in clear["schema_registry.password"]
        assert "hunter2" not in str(clear)
        assert load_settings(AVRO | {"DAFU_SCHEMA_REGISTRY_URLS": url})
    for url in ("http://localhost:8081", "http://127.0.0.1", "http://[::1]:8081/api"):
        assert load_settings(AVRO | login | {"DAFU_SCHEMA_REGISTRY_URLS": url})
    written = problems(conf(tmp_path, "schema_registry: {password: hunter2}\n"))
    assert "DAFU_SCHEMA_REGISTRY_PASSWORD" in written["schema_registry.password"]


def test_a_registrys_certificates_are_files_that_belong_together(tmp_path: Path) -> None:
    missing = problems(AVRO | {"DAFU_SCHEMA_REGISTRY_SSL_CAFILE": "no/such/ca.pem"})
    assert "there is no file" in missing["schema_registry.ssl_cafile"]
    (tmp_path / "key.pem").write_text("")
    key = {"DAFU_SCHEMA_REGISTRY_SSL_KEYFILE": str(tmp_path / "key.pem")}
    unused = problems(AVRO | key)["schema_registry.ssl_keyfile"]
    assert "is of no use without schema_registry.ssl_certfile" in unused


OAUTH = {"DAFU_SECURITY_PROTOCOL": "sasl_plaintext", "DAFU_SASL_MECHANISM": "oauthbearer"}


def test_tokens_come_from_an_endpoint_or_a_file() -> None:
    missing = problems(OAUTH)
    assert sorted(missing) == [
        "security.oauth_token_url",
        "security.sasl_password",
        "security.sasl_user",
    ]
    assert "OAUTHBEARER needs it" in missing["security.oauth_token_url"]
    for wrong in ("http://login.example.com/token", "file://token", "token", "https://"):
        found = problems(OAUTH | {"DAFU_OAUTH_TOKEN_URL": wrong})
        assert "https URL" in found["security.oauth_token_url"], wrong
    environ = OAUTH | {"DAFU_OAUTH_TOKEN_URL": "file:///run/token"}
    for other in ({"DAFU_SASL_MECHANISM": "PLAIN"}, {"DAFU_SECURITY_PROTOCOL": "PLAINTEXT"}):
        what = ", ".join(other.values())
        unused = problems(environ | other)["security.oauth_token_url"]
        assert f"is of no use with {what}" in unused
    options = load_settings(environ).security.client_options()
    provider = options.pop("sasl_oauth_token_provider")
    assert options == {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    assert provider.extensions() == {}
    environ |= {"DAFU_OAUTH_EXTENSIONS": "logicalCluster=lkc-1, identityPoolId=p"}
    security = load_settings(environ).security
    provider = security.client_options()["sasl_oauth_token_provider"]
    assert provider.extensions() == {"logicalCluster": "lkc-1", "identityPoolId": "p"}
    found = problems(environ | {"DAFU_OAUTH_EXTENSIONS": "auth"})
    assert "name=value" in found["security.oauth_extensions"]


def test_ssl_builds_a_context(tmp_path: Path) -> None:
    options = load_settings({"DAFU_SECURITY_PROTOCOL": "SSL"}).security.client_options()
    assert options["ssl_context"].check_hostname
    (tmp_path / "ca.pem").write_text("no certificate")
    environ = {"DAFU_SECURITY_PROTOCOL": "SSL", "DAFU_SSL_CAFILE": str(tmp_path / "ca.pem")}
    with pytest.raises(SettingsError, match="PEM"):
        load_settings(environ).security.client_options()


MUTUAL = {"DAFU_SECURITY_PROTOCOL": "SSL", "DAFU_SSL_CAFILE": "cert.pem"}
SHOWN = {"DAFU_SSL_CERTFILE": "cert.pem", "DAFU_SSL_KEYFILE": "key.pem"}


@pytest.mark.parametrize("password", [None, "s3cret"])
async def test_who_asks_for_a_certificate_is_shown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    certified(tmp_path, None if password is None else password.encode())
    asks = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile="cert.pem")
    asks.load_cert_chain("cert.pem", "key.pem", password)
    asks.verify_mode = ssl.CERT_REQUIRED

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (((_, name),),) = writer.get_extra_info("peercert")["subject"]
        writer.write(name.encode())
        writer.close()

    async def greeting(environ: dict[str, str]) -> bytes:
        context = load_settings(environ).security.client_options()["ssl_context"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=asks) as server:
        port = server.sockets[0].getsockname()[1]
        secret = {} if password is None else {"DAFU_SSL_KEY_PASSWORD": password}
        assert await greeting(MUTUAL | SHOWN | secret) == b"worker"
        assert await greeting(MUTUAL) == b""


def test_a_certificate_that_can_not_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    certified(tmp_path, b"s3cret")
    for environ in (MUTUAL | SHOWN, MUTUAL | SHOWN | {"DAFU_SSL_KEY_PASSWORD": "other"}):
        security = load_settings(environ).security
        with pytest.raises(SettingsError, match=r"security.ssl_certfile.* belong together"):
            security.client_options()
    without = {"DAFU_SECURITY_PROTOCOL": "SSL", "DAFU_SSL_KEYFILE": "key.pem"}
    assert "without security.ssl_certfile" in problems(without)["security.ssl_keyfile"]
    plain = {"DAFU_SSL_CERTFILE": "cert.pem"}
    assert "of no use with PLAINTEXT" in problems(plain)["security.ssl_certfile"]
    hidden = load_settings(MUTUAL | SHOWN | {"DAFU_SSL_KEY_PASSWORD": "s3cret"})
    assert "s3cret" not in hidden.describe() + repr(hidden)


def test_secrets_stay_hidden(tmp_path: Path) -> None:
    settings = load_settings(SASL | {"DAFU_SASL_PASSWORD": "hunter2"})
    assert "hunter2" not in settings.describe() + repr(settings)
    assert "(hidden)" in settings.describe()
    found = problems(conf(tmp_path, "security: {sasl_password: hunter2}\n"))
    assert "hunter2" not in str(found)
    assert "DAFU_SASL_PASSWORD" in found["security.sasl_password"]


def test_describe_names_every_setting_and_its_origin() -> None:
    lines = load_settings({"DAFU_BROKER": "b:1"}).describe().splitlines()
    names = {line.split()[0] for line in lines}
    assert set(ENVIRONMENT.values()) <= names
    assert any(line.split() == ["broker", "b:1", "DAFU_BROKER"] for line in lines)


def test_yaml_keys_of_the_shipped_file_are_settings() -> None:
    document = yaml.safe_load((ROOT / "conf" / "dafu.yaml").read_text())
    assert set(document) <= set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "http://127.0.0.1:6066"),
        ({"host": "::1", "port": 80}, "http://[::1]:80"),
        ({"host": "pay.example", "tls_cert": Path("c.pem")}, "https://pay.example:6066"),
        ({"host": "0.0.0.0", "advertised_url": "https://w1:8443/"}, "https://w1:8443"),
    ],
)
def test_where_other_workers_reach_this_one(given: dict[str, Any], url: str) -> None:
    assert Web(**given).url == url


def test_a_server_on_all_addresses_goes_by_the_machines_name() -> None:
    assert Web(host="0.0.0.0").url == f"http://{socket.getfqdn()}:6066"
