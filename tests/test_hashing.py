"""The compiled hash against the xxhash library, which is the specification's own code."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from dafu.hashing import hash64, word, xxh64

RANDOM = np.random.default_rng(7).integers(0, 256, 5000, dtype=np.uint8)
RANDOM.flags.writeable = False


def test_kernel_and_library_agree_at_every_length_and_alignment() -> None:
    for length in [*range(201), 1000, 4096]:
        for start in (0, 1, 7, 400):
            expected = xxhash.xxh64_intdigest(RANDOM[start : start + length].tobytes(), seed=0)
            assert int(xxh64(RANDOM, start, length)) == expected, (start, length)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_a_string_alone_hashes_as_in_a_kernel(value: bytes) -> None:
    buffer = np.frombuffer(b"<" + value + b">", dtype=np.uint8)
    assert int(xxh64(buffer, 1, len(value))) == hash64(value) == xxhash.xxh64_intdigest(value)


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8))
def test_a_word_is_little_endian(value: bytes) -> None:
    assert int(word(np.frombuffer(b"." + value, dtype=np.uint8), 1)) == int.from_bytes(
        value, "little"
    )
