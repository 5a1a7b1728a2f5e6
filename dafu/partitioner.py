"""Which partition a key belongs to: Kafka's default partitioner, for whole batches.

It must agree with every other producer that writes the same topics, because tables and the later
stages rely on equal keys meeting in one partition. It knows keys and a partition count, no client.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dafu.columns import I64, U8, ByteColumn
from dafu.kernel import kernel

__all__ = ["ABSENT", "key_hashes", "partitions_for"]

ABSENT: Final = -1
"""Instead of a hash or a partition, where there is no key to choose one by."""


@kernel
def _murmur2(data: U8, starts: I64, lengths: I64, out: NDArray[np.int32]) -> None:
    """MurmurHash2 as `org.apache.kafka.common.utils.Utils.murmur2` has it, sign bit cut.

    All arithmetic is modulo 2**32; numba would widen mixed operands to 64 bits or floats, so the
    state is kept in 64-bit words and masked after every product.
    """
    mask = np.uint64(0xFFFFFFFF)
    m = np.uint64(0x5BD1E995)
    for i in range(starts.size):
        if lengths[i] < 0:
            out[i] = ABSENT
            continue
        at = starts[i]
        end = at + lengths[i]
        h = np.uint64(0x9747B28C) ^ np.uint64(lengths[i])
        while end - at >= 4:
            k = (
                np.uint64(data[at])
                | np.uint64(data[at + 1]) << np.uint64(8)
                | np.uint64(data[at + 2]) << np.uint64(16)
                | np.uint64(data[at + 3]) << np.uint64(24)
            )
            k = (k * m) & mask
            k ^= k >> np.uint64(24)
            k = (k * m) & mask
            h = ((h * m) & mask) ^ k
            at += 4
        rest = end - at
        if rest == 3:
            h ^= np.uint64(data[at + 2]) << np.uint64(16)
        if rest >= 2:
            h ^= np.uint64(data[at + 1]) << np.uint64(8)
        if rest >= 1:
            h ^= np.uint64(data[at])
            h = (h * m) & mask
        h ^= h >> np.uint64(13)
        h = (h * m) & mask
        h ^= h >> np.uint64(15)
        out[i] = h & np.uint64(0x7FFFFFFF)


def key_hashes(keys: ByteColumn) -> NDArray[np.int32]:
    """What the partitions of `keys` follow from, in a topic with however many partitions.

    Returns
    -------
    ndarray of int32, shape (len(keys),)
        Not negative but for ABSENT; modulo the number of partitions it is the partition.
    """
    out = np.empty(len(keys), np.int32)
    _murmur2(keys.buffer, keys.starts, keys.lengths, out)
    return out


def partitions_for(keys: ByteColumn, n: int) -> NDArray[np.int32]:
    """Partitions of `keys` in a topic with `n` partitions, as Kafka's default partitioner has it.

    Parameters
    ----------
    keys
        Record keys.
    n
        Number of partitions, at least 1.

    Returns
    -------
    ndarray of int32, shape (len(keys),)
        Partition numbers in 0..n-1, ABSENT where there is no key: Kafka leaves the choice to the
        producer then.

    Raises
    ------
    ValueError
        When `n` is less than 1.
    """
    if n < 1:
        raise ValueError(f"a topic has at least one partition, not {n}")
    hashes = key_hashes(keys)
    return np.where(hashes == ABSENT, np.int32(ABSENT), hashes % np.int32(n))
