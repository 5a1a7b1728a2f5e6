"""The file of keys, users and clients."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest

from dafu.web.auth.file import LOOK_SECONDS, AuthFile, AuthFileError, write_private
from dafu.web.auth.records import AuthRecords, KeyRecord, add, digest, new_key


def key(name: str) -> KeyRecord:
    return KeyRecord(name, digest(name), "viewer")


def names(records: AuthRecords) -> set[str]:
    return {record.name for record in records.everybody()}


def test_nobody_without_a_file(tmp_path: Path) -> None:
    assert AuthFile(tmp_path / "none" / "auth.yaml").records() == AuthRecords()
    assert list(tmp_path.iterdir()) == []


def test_it_is_private_and_holds_no_key(tmp_path: Path) -> None:
    file, shown = AuthFile(tmp_path / "a" / "auth.yaml"), new_key()
    file.change(lambda records: add(records, KeyRecord("k", digest(shown), "admin")))
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    assert shown not in file.path.read_text()
    assert {p.name for p in file.path.parent.iterdir()} == {"auth.yaml", "auth.yaml.lock"}


def test_readers_know_of_a_change_within_a_second(tmp_path: Path) -> None:
    now = [100.0]
    writer = AuthFile(tmp_path / "auth.yaml")
    reader = AuthFile(tmp_path / "auth.yaml", lambda: now[0])
    assert names(reader.records()) == set()
    writer.change(lambda records: add(records, key("one")))
    now[0] += LOOK_SECONDS / 2
    assert names(reader.records()) == set()
    now[0] += LOOK_SECONDS
    assert names(reader.records()) == {"one"}
    writer.path.unlink()
    now[0] += LOOK_SECONDS
    assert names(reader.records()) == set()


def test_what_can_not_be_read_changes_nothing_later_and_stops_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    file = AuthFile(tmp_path / "auth.yaml", lambda: now[0])
    file.change(lambda records: add(records, key("one")))
    now[0] += LOOK_SECONDS
    assert names(file.records()) == {"one"}
    for damage in ("keys: [{name: x}]", "{", "kyes: []", "\x00", "[1]"):
        file.path.write_text(damage)
        now[0] += LOOK_SECONDS
        with caplog.at_level(logging.ERROR):
            caplog.clear()
            assert names(file.records()) == {"one"}
            assert "holds on" in caplog.text
        with pytest.raises(AuthFileError, match=r"auth\.yaml can not be read"):
            AuthFile(file.path).records()
        with pytest.raises(AuthFileError):
            file.change(lambda records: add(records, key("two")))


def test_others_who_may_read_it_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = AuthFile(tmp_path / "auth.yaml")
    file.change(lambda records: add(records, key("one")))
    file.path.chmod(0o644)
    AuthFile(file.path).records()
    assert "chmod 600" in caplog.text


def _add_some(path: Path, first: int) -> None:
    for number in range(first, first + 5):
        AuthFile(path).change(lambda records, n=number: add(records, key(f"k{n}")))  # type: ignore[misc]


def test_changes_of_several_processes_are_all_there(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    path = tmp_path / "auth.yaml"
    processes = [context.Process(target=_add_some, args=(path, n * 5)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert names(AuthFile(path).records()) == {f"k{n}" for n in range(20)}


def test_the_first_one_creates_it(tmp_path: Path) -> None:
    path = tmp_path / "auth.yaml"
    assert AuthFile(path).create(AuthRecords(keys=(key("one"),)))
    assert not AuthFile(path).create(AuthRecords(keys=(key("two"),)))
    assert names(AuthFile(path).records()) == {"one"}


def test_a_private_file_takes_no_others_place_unless_it_may(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert write_private(path, b"1", replace=False)
    assert not write_private(path, b"2", replace=False)
    assert path.read_bytes() == b"1"
    assert write_private(path, b"3")
    assert path.read_bytes() == b"3"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    with pytest.raises(AuthFileError, match="can not be written"):
        write_private(path / "y", b"")
