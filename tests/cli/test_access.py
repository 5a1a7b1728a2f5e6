"""`dafu keys`, `dafu users`, `dafu clients`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from dafu.web.auth.file import AuthFile
from dafu.web.auth.passwords import check
from dafu.web.auth.records import AuthRecords, digest
from dafu.web.principals import Permission
from tests.cli.conftest import Run

PASSWORD = "correct horse battery"


def kept() -> AuthRecords:
    """What is in the file of the directory that the command ran in."""
    return AuthFile(Path(".dafu-auth/auth.yaml")).records()


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_keys_are_printed_once_and_kept_as_hashes(run: Run) -> None:
    added = run("keys", "add", "checkout", "--role", "engineer", "--permissions", "score, label",
                "--expires", "2030-01-02")  # fmt: skip
    assert added.code == 0, added.err
    key = added.out.strip()
    record = kept().key(key)
    assert record is not None
    assert (record.name, record.role) == ("checkout", "engineer")
    assert record.permissions == (Permission.SCORE, Permission.LABEL)
    assert record.sha256 == digest(key)
    assert key not in Path(".dafu-auth/auth.yaml").read_text()
    listed = run("keys", "list")
    assert listed.out == "checkout  engineer  label, score  until 2030-01-02T00:00+00:00\n"
    assert run("keys", "revoke", "checkout").code == 0
    assert kept() == AuthRecords()
    assert run("keys", "list").out == "there are no keys\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "k", "--role", "boss"), "'boss' is no role"),
        (("add", "k:1", "--role", "viewer"), "'k:1' is no name"),
        (("add", "k", "--role", "viewer", "--permissions", "read,score"), "does not have score"),
        (("add", "k", "--role", "viewer", "--permissions", ","), "does not have"),
        (("revoke", "k"), "no key named k; there are: none"),
    ],
)
def test_keys_that_can_not_be(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run("keys", *arguments)
    assert done.code == 1
    assert message in done.err
    assert done.out == ""
    assert kept() == AuthRecords()


def test_a_name_is_taken_by_whoever_has_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("keys", "add", "ann", "--role", "viewer").code == 0
    type_in(monkeypatch, PASSWORD + "\n")
    done = run("users", "add", "ann", "--role", "viewer")
    assert (done.code, "already a key named ann" in done.err) == (1, True)


def test_passwords_come_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, PASSWORD + "\n")
    added = run("users", "add", "ann", "--role", "analyst")
    assert added.code == 0, added.err
    (user,) = kept().users
    assert user.role == "analyst"
    assert user.password.startswith("$argon2id$")
    assert check(user.password, PASSWORD)
    assert PASSWORD not in added.out + added.err
    type_in(monkeypatch, "another password\r\n")
    assert run("users", "password", "ann").code == 0
    (user,) = kept().users
    assert check(user.password, "another password")
    assert not check(user.password, PASSWORD)
    assert run("users", "list").out == "ann  analyst  all of the role's\n"
    assert run("users", "remove", "ann").code == 0
    assert kept() == AuthRecords()


def test_passwords_that_are_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "short\n", "x" * 1025):
        type_in(monkeypatch, text)
        done = run("users", "add", "ann", "--role", "viewer")
        assert (done.code, "12 to 1,024 characters" in done.err) == (1, True)
    type_in(monkeypatch, PASSWORD)
    done = run("users", "password", "bob")
    assert (done.code, "no user named bob" in done.err) == (1, True)
    assert run("users", "add", "ann", "--role", "viewer", "--password", PASSWORD).code == 2
    assert run("users", "add", "ann", PASSWORD, "--role", "viewer").code == 2
    assert kept() == AuthRecords()


def test_clients_have_secrets(run: Run) -> None:
    added = run("clients", "add", "shop", "--role", "engineer", "--permissions", "score")
    (client,) = kept().clients
    assert client.sha256 == digest(added.out.strip())
    assert run("clients", "list").out == "shop  engineer  score\n"
    assert run("clients", "remove", "shop").code == 0
    assert kept() == AuthRecords()


def test_the_file_is_where_the_settings_say(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAFU_AUTH_FILE", "elsewhere/who.yaml")
    assert run("keys", "add", "k", "--role", "viewer").code == 0
    assert Path("elsewhere/who.yaml").is_file()
    assert not Path(".dafu-auth").exists()
