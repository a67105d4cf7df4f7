"""The tree against the vectors of the contract, and its proofs against trees of every small size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labyard.desktops.evidence import merkle

VECTORS = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031")]


def leaves_of(count: int) -> list[bytes]:
    return [merkle.leaf_hash(bytes([index])) for index in range(count)]


class TestRoots:
    @pytest.mark.parametrize(
        ("count", "expected"),
        [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        ],
    )
    def test_vectors(self, count: int, expected: str) -> None:
        assert merkle.root([merkle.leaf_hash(data) for data in VECTORS[:count]]).hex() == expected

    def test_the_empty_tree_is_the_hash_of_nothing(self) -> None:
        assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    def test_an_odd_last_leaf_is_not_doubled(self) -> None:
        three = leaves_of(3)
        assert merkle.root(three) != merkle.root([*three, three[-1]])

    def test_a_node_is_no_leaf(self) -> None:
        left, right = leaves_of(2)
        assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


class TestInclusion:
    @pytest.mark.parametrize("size", range(1, 20))
    def test_every_leaf_is_proven_and_nothing_else_is(self, size: int) -> None:
        leaves = leaves_of(size)
        before = list(leaves)
        root = merkle.root(leaves)
        for index in range(size):
            proof = merkle.inclusion_proof(leaves, index)
            for place in range(size):
                found = merkle.root_from_inclusion(leaves[index], place, size, proof)
                assert (found == root) == (place == index)
            assert merkle.root_from_inclusion(merkle.EMPTY, index, size, proof) != root
            assert merkle.root_from_inclusion(leaves[index], index, size, [*proof, merkle.EMPTY]) is None
        assert leaves == before

    def test_there_is_no_proof_of_a_leaf_that_is_not_there(self) -> None:
        with pytest.raises(IndexError):
            merkle.inclusion_proof(leaves_of(3), 3)


class TestConsistency:
    @pytest.mark.parametrize("second", range(0, 18))
    def test_every_beginning_is_proven(self, second: int) -> None:
        leaves = leaves_of(second)
        new = merkle.root(leaves)
        for first in range(second + 1):
            old = merkle.root(leaves[:first])
            proof = merkle.consistency_proof(leaves, first)
            assert merkle.is_consistent(first, second, old, new, proof)
            other = merkle.leaf_hash(b"another")
            assert not merkle.is_consistent(first, second, other, new, proof)
            assert not merkle.is_consistent(first, second, old, new, [*proof, other])
            if 0 < first < second:
                assert not merkle.is_consistent(first, second, old, other, proof)

    @given(st.integers(1, 40), st.data())
    def test_another_history_is_not_consistent(self, second: int, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, second))
        changed = data.draw(st.integers(0, first - 1))
        leaves = leaves_of(second)
        rewritten = [*leaves[:changed], merkle.leaf_hash(b"rewritten"), *leaves[changed + 1 :]]
        proof = merkle.consistency_proof(rewritten, first)
        assert not merkle.is_consistent(first, second, merkle.root(leaves[:first]), merkle.root(rewritten), proof)
