"""What may be analyzed, and all the ways around that."""

from __future__ import annotations

from pathlib import Path

import pytest

from dafu.settings import Web
from dafu.web.jobs.sources import SourceError, allowed_source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("exports/a.csv", "exports/deep/b.parquet", "secret/c.csv", "exports-2/d.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "exports/out.csv").symlink_to(tmp_path / "secret/c.csv")
    (tmp_path / "exports/up").symlink_to(tmp_path)
    (tmp_path / "exports/in.csv").symlink_to(tmp_path / "exports/a.csv")
    (tmp_path / "exports/dir.csv").mkdir()
    (tmp_path / "exports/loop.csv").symlink_to(tmp_path / "exports/loop.csv")
    return tmp_path


def settings(tree: Path) -> Web:
    return Web(
        analyze_dirs=(str(tree / "exports"),),
        analyze_urls=("s3://bucket/exports", "https://host/files/"),
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [("a.csv", "a.csv"), ("deep/b.parquet", "deep/b.parquet"), ("in.csv", "a.csv")],
)
def test_files_below_a_directory_may(tree: Path, source: str, found: str) -> None:
    path = str(tree / "exports" / source)
    assert allowed_source(path, settings(tree)) == str((tree / "exports" / found).resolve())


@pytest.mark.parametrize(
    "source",
    [
        "secret/c.csv",
        "exports/../secret/c.csv",
        "exports/out.csv",
        "exports/up/secret/c.csv",
        "exports-2/d.csv",
        "exports/none.csv",
        "exports/dir.csv",
        "exports/loop.csv",
    ],
)
def test_others_may_not_and_are_all_told_the_same(tree: Path, source: str) -> None:
    with pytest.raises(SourceError, match="there is no such file below the configured") as one:
        allowed_source(f"{tree}/{source}", settings(tree))
    assert str(tree) not in str(one.value)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("a.csv", "absolute path"),
        ("~/a.csv", "absolute path"),
        ("/etc/passwd", "ends with none of"),
        ("/x/a.csv\0.csv", "control character"),
        ("s3://bucket/exports-evil/a.csv", "under none"),
        ("s3://bucket/a.csv", "under none"),
        ("s3://bucket/exports/../a.csv", "plainly"),
        ("s3://bucket/exports/%2e%2e/a.csv", "plainly"),
        ("s3://bucket/exports//a.csv", "plainly"),
        ("s3://bucket/exports/*.csv", "plainly"),
        ("https://host/files/a?x=.csv", "plainly"),
        ("https://user@host/files/a.csv", "plainly"),
        ("simplecache::s3://bucket/exports/a.csv", "absolute path"),
        ("s3://bucket/exports/a::file:///etc/x.csv", "plainly"),
        ("file:///etc/a.csv", "no object store"),
        ("local:///etc/a.csv", "no object store"),
        ("git+ssh://bucket/a.csv", "no object store"),
    ],
)
def test_what_is_refused_is_told_why(tree: Path, source: str, what: str) -> None:
    with pytest.raises(SourceError, match=what):
        allowed_source(source, settings(tree))


def test_urls_below_a_beginning_may(tree: Path) -> None:
    for url in ("s3://bucket/exports/2026/a.parquet", "https://host/files/a.csv.gz"):
        assert allowed_source(url, settings(tree)) == url


def test_nothing_may_by_default(tree: Path) -> None:
    for source in (f"{tree}/exports/a.csv", "s3://bucket/exports/a.csv"):
        with pytest.raises(SourceError, match="configured"):
            allowed_source(source, Web())
