"""The Merkle tree of RFC 6962: hashes over raw bytes, leaves and nodes told apart, odd nodes never doubled.

One tree for everything: the chunks of a session, and the entries of the ledger. Functions take leaf *hashes* (32 bytes
each) and never change what they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

EMPTY = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes, in this order."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return node_hash(root(leaves[:middle]), root(leaves[middle:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes beside the way from leaf `index` to the root, lowest first. IndexError when there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_proof(leaves[:middle], index), root(leaves[middle:])]
    return [*inclusion_proof(leaves[middle:], index - middle), root(leaves[:middle])]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves that has `leaf` at `index`, by this proof. None when the proof has not the
    length that such a tree needs."""
    if not 0 <= index < size:
        return None
    last, found = size - 1, leaf
    for step in proof:
        if last == 0:
            return None
        if index % 2 or index == last:
            found = node_hash(step, found)
            while not index % 2 and index:
                index, last = index // 2, last // 2
        else:
            found = node_hash(found, step)
        index, last = index // 2, last // 2
    return found if last == 0 else None


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """What shows that the tree over the first `first` leaves is the beginning of this one. IndexError when it is not
    smaller or of the same size."""
    if not 0 <= first <= len(leaves):
        raise IndexError(f"no tree of {first} leaves within {len(leaves)}")
    return [] if first in (0, len(leaves)) else _subproof(leaves, first, whole=True)


def is_consistent(first: int, second: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of `first` leaves begins that of `second` (RFC 9162, 2.1.4)."""
    if not 0 <= first <= second:
        return False
    if first == 0:
        return old_root == EMPTY and not proof
    if first == second:
        return old_root == new_root and not proof
    path = list(proof)
    if first & (first - 1) == 0:  # a whole subtree: its root is not in the proof, for it is known
        path.insert(0, old_root)
    if not path:
        return False
    index, last = first - 1, second - 1
    while index % 2:
        index, last = index // 2, last // 2
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if index % 2 or index == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not index % 2 and index:
                index, last = index // 2, last // 2
        else:
            new = node_hash(new, step)
        index, last = index // 2, last // 2
    return last == 0 and old == old_root and new == new_root


def _subproof(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    """`whole`: the subtree of these `first` leaves is the old tree itself, whose root the reader has."""
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    middle = _split(len(leaves))
    if first <= middle:
        return [*_subproof(leaves[:middle], first, whole=whole), root(leaves[middle:])]
    return [*_subproof(leaves[middle:], first - middle, whole=False), root(leaves[:middle])]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)
