"""What has to hold before a worker serves anybody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dafu.settings import Access, Settings, Web
from dafu.web.auth.auth import Auth
from dafu.web.auth.file import AuthFileError
from dafu.web.auth.records import AuthRecords, KeyRecord, digest
from dafu.web.auth.start import ExposedError, prepare
from dafu.web.tls import TLSError, client_context, server_context


async def publish(_key: bytes, _value: bytes) -> None:
    """Nobody listens."""


def started(directory: Path, records: AuthRecords | None = None, **given: Any) -> Auth:
    """What `prepare` leaves behind."""
    access = {name: given.pop(name) for name in list(given) if name.startswith("idp_")}
    settings = Settings(
        web=Web(**given), auth=Access(file=directory / "auth" / "auth.yaml", **access)
    )
    auth = Auth(settings, publish)
    if records is not None:
        auth.identities.file.create(records)
    prepare(settings, auth)
    return auth


SOMEBODY = AuthRecords(keys=(KeyRecord("k", digest("k"), "viewer"),))
PROXY: dict[str, Any] = {"behind_proxy": True}
CERTIFICATE: dict[str, Any] = {"tls_cert": Path("server.pem")}


def test_a_first_run_on_loopback_makes_a_key_and_says_it_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    auth = started(tmp_path)
    out = capfd.readouterr().out
    keys = set(re.findall(r"dafu_[\w-]{43}", out))
    (key,) = keys
    subject = auth.identities.of_key(key)
    assert (subject.name, subject.role) == ("first-admin", "admin")
    text = (tmp_path / "auth" / "auth.yaml").read_text()
    assert key not in text
    assert key not in caplog.text
    assert {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "auth").iterdir()} == {
        "auth.yaml": 0o600,
        "auth.yaml.lock": 0o600,
        "signing.pem": 0o600,
    }
    again = started(tmp_path)
    assert capfd.readouterr().out == ""
    assert (tmp_path / "auth" / "auth.yaml").read_text() == text
    assert again.identities.of_key(key) == subject
    assert again.identities.of_token(auth.identities.token(subject)) == subject


def test_no_key_is_made_where_somebody_has_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path / "a", admin_key="a" * 32)
    assert not (tmp_path / "a" / "auth" / "auth.yaml").exists()
    started(tmp_path / "b", SOMEBODY)
    started(tmp_path / "c", idp_issuer="https://id.example")
    assert not (tmp_path / "c" / "auth" / "auth.yaml").exists()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "dafu.example.com"])
def test_nothing_is_open_where_others_reach_it(tmp_path: Path, host: str) -> None:
    with pytest.raises(ExposedError, match=r"clear text.*DAFU_TLS_CERT.*DAFU_BEHIND_PROXY"):
        started(tmp_path / "a", SOMEBODY, host=host)
    with pytest.raises(ExposedError, match=r"nobody has a key.*dafu keys add"):
        started(tmp_path / "b", host=host, behind_proxy=True)
    with pytest.raises(ExposedError, match="nobody has a key"):
        started(tmp_path / "c", host=host, **CERTIFICATE)
    for number, more in enumerate([PROXY, CERTIFICATE]):
        assert started(tmp_path / f"d{number}", SOMEBODY, host=host, **more).secure
    for name in "abc":
        assert not (tmp_path / name / "auth" / "signing.pem").exists()


def test_a_file_that_can_not_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "auth").mkdir()
    (tmp_path / "auth" / "auth.yaml").write_text("keys: nonsense")
    with pytest.raises(AuthFileError, match=r"auth\.yaml can not be read"):
        started(tmp_path)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    assert server_context(Web()) is None
    assert client_context(Web()) is None
    path = tmp_path / "server.pem"
    path.write_text("none")
    with pytest.raises(TLSError, match=r"server\.pem"):
        server_context(Web(tls_cert=path))
