"""The key that dafu signs with, and what is taken for signed by it."""

from __future__ import annotations

import multiprocessing
import stat
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from dafu.web.auth.file import AuthFileError
from dafu.web.auth.signing import LEEWAY_SECONDS, BadTokenError, Signer


def signer(directory: Path, issuer: str = "dafu:test") -> Signer:
    return Signer(directory / "signing.pem", issuer)


def token(of: Signer, seconds: float = 60.0, audience: str = "a", now: float | None = None) -> str:
    now = time.time() if now is None else now
    return of.sign({"sub": "ann"}, audience=audience, now=now, seconds=seconds)


def test_it_reads_what_it_signed(tmp_path: Path) -> None:
    mine = signer(tmp_path)
    claims = mine.read(token(mine), audience="a")
    assert (claims["sub"], claims["iss"], claims["aud"]) == ("ann", "dafu:test", "a")
    assert claims["exp"] - claims["iat"] == 60
    assert stat.S_IMODE(mine.path.stat().st_mode) == 0o600
    assert signer(tmp_path).read(token(mine), audience="a")["sub"] == "ann"


def test_nothing_is_read_for_anything_else(tmp_path: Path) -> None:
    mine = signer(tmp_path)
    good = token(mine)
    for reader, audience in (
        (mine, "b"),
        (mine, ""),
        (signer(tmp_path, "dafu:other"), "a"),
        (signer(tmp_path / "other"), "a"),
    ):
        with pytest.raises(BadTokenError):
            reader.read(good, audience=audience)


def test_times_are_held(tmp_path: Path) -> None:
    mine, now = signer(tmp_path), time.time()
    mine.read(token(mine, now=now - 60 - LEEWAY_SECONDS + 5), audience="a")
    mine.read(token(mine, now=now + LEEWAY_SECONDS - 5), audience="a")
    with pytest.raises(BadTokenError, match="expired"):
        mine.read(token(mine, now=now - 60 - LEEWAY_SECONDS - 5), audience="a")
    with pytest.raises(BadTokenError, match="not yet valid"):
        mine.read(token(mine, now=now + LEEWAY_SECONDS + 5), audience="a")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return signer(tmp_path_factory.mktemp("signing"))


@given(st.data())
def test_a_token_with_any_character_changed_is_not_good(
    shared: Signer, data: st.DataObject
) -> None:
    good = token(shared)
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.sampled_from("ABab09-_.=").filter(lambda c: c != good[at]))
    changed = good[:at] + other + good[at + 1 :]
    try:
        claims = shared.read(changed, audience="a")
    except BadTokenError:
        return
    # The last digit of base64 has bits that mean nothing.
    assert at in (len(good) - 1, good.index(".") - 1, good.rindex(".") - 1)
    assert claims == shared.read(good, audience="a")


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_no_text_is_a_token(shared: Signer, text: str) -> None:
    with pytest.raises(BadTokenError):
        shared.read(text, audience="a")


def _make(path: Path, queue: multiprocessing.Queue[bytes]) -> None:
    queue.put(Signer(path, "i").public_pem())


def test_workers_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    path = tmp_path / "auth" / "signing.pem"
    processes = [context.Process(target=_make, args=(path, queue)) for _ in range(6)]
    for process in processes:
        process.start()
    keys = {queue.get(timeout=30) for _ in processes}
    for process in processes:
        process.join(30)
    assert len(keys) == 1
    assert [p.name for p in path.parent.iterdir()] == ["signing.pem"]


def test_secrets_are_the_keys_and_of_their_use(tmp_path: Path) -> None:
    mine = signer(tmp_path)
    assert mine.secret("mask") == signer(tmp_path).secret("mask") != mine.secret("other")
    assert mine.secret("mask") != signer(tmp_path / "other").secret("mask")
    assert len(mine.secret("mask")) == 32


def test_files_that_are_no_such_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "signing.pem"
    path.write_text("no key")
    with pytest.raises(AuthFileError, match="no private key in PEM"):
        Signer(path, "i").prepare()
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(other)
    path.chmod(0o640)
    with pytest.raises(AuthFileError, match="no Ed25519 key"):
        Signer(path, "i").prepare()
    assert "could sign tokens" in caplog.text
    with pytest.raises(AuthFileError, match="can not be read"):
        Signer(tmp_path, "i").prepare()
