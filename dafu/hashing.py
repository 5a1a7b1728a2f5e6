"""64-bit hashes of identifiers: for single strings, and the same ones inside compiled kernels.

XXH64 with seed 0, as specified in the xxHash repository (doc/xxhash_spec.md), because it is short
enough to compile into the kernels that meet the bytes anyway. Knows bytes and not what they mean.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from dafu.kernel import kernel

__all__ = ["hash64", "word", "xxh64"]

_P1: Final = np.uint64(0x9E3779B185EBCA87)
_P2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_P3: Final = np.uint64(0x165667B19E3779F9)
_P4: Final = np.uint64(0x85EBCA77C2B2AE63)
_P5: Final = np.uint64(0x27D4EB2F165667C5)
_P1_PLUS_P2: Final = np.uint64(0x60EA27EEADC0B5D6)
_MINUS_P1: Final = np.uint64(0x61C8864E7A143579)
_ZERO: Final = np.uint64(0)
_BITS: Final = np.uint64(64)


def hash64(value: bytes) -> int:
    """XXH64 with seed 0 of one string; in a kernel, call `xxh64`.

    Examples
    --------
    >>> hex(hash64(b""))
    '0xef46db3751d8e999'
    """
    return int(xxh64_intdigest(value))


@kernel
def word(buffer: NDArray[np.uint8], at: int) -> np.uint64:
    """Eight bytes as a little-endian number; the caller has checked that they are there."""
    p = np.uint64(at)  # unsigned, else numba looks for negative indices; this is one load
    w = np.uint64(0)
    for k in range(8):
        w |= np.uint64(buffer[p + np.uint64(k)]) << np.uint64(8 * k)
    return w


@kernel
def xxh64(buffer: NDArray[np.uint8], start: int, length: int) -> np.uint64:
    """XXH64 with seed 0 of `length` bytes from `start`; the caller has checked that they exist."""
    p = start
    end = start + length
    if length >= 32:
        v1, v2, v3, v4 = _P1_PLUS_P2, _P2, _ZERO, _MINUS_P1
        while p + 32 <= end:
            v1 = _round(v1, word(buffer, p))
            v2 = _round(v2, word(buffer, p + 8))
            v3 = _round(v3, word(buffer, p + 16))
            v4 = _round(v4, word(buffer, p + 24))
            p += 32
        h = _rotated(v1, 1) + _rotated(v2, 7) + _rotated(v3, 12) + _rotated(v4, 18)
        h = _merged(_merged(_merged(_merged(h, v1), v2), v3), v4)
    else:
        h = _P5
    h += np.uint64(length)
    while p + 8 <= end:
        h = _rotated(h ^ _round(_ZERO, word(buffer, p)), 27) * _P1 + _P4
        p += 8
    if p + 4 <= end:
        half = _ZERO
        for k in range(4):
            half |= np.uint64(buffer[p + k]) << np.uint64(8 * k)
        h = _rotated(h ^ (half * _P1), 23) * _P2 + _P3
        p += 4
    while p < end:
        h = _rotated(h ^ (np.uint64(buffer[p]) * _P5), 11) * _P1
        p += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@kernel
def _round(lane: np.uint64, more: np.uint64) -> np.uint64:
    return _rotated(lane + more * _P2, 31) * _P1


@kernel
def _merged(h: np.uint64, lane: np.uint64) -> np.uint64:
    return (h ^ _round(_ZERO, lane)) * _P1 + _P4


@kernel
def _rotated(x: np.uint64, bits: int) -> np.uint64:
    n = np.uint64(bits)
    return (x << n) | (x >> (_BITS - n))
