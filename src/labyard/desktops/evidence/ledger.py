"""The ledger: entries chained by hash, signed with Ed25519, under a signed Merkle tree head (contract 5.8).

Pure functions over plain values; who stores the entries is the service's business. Signatures and hashes are lower-case
hex, so that there is one way only to write each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from labyard.desktops.evidence import merkle

VERSION = 1
ENTRY_DOMAIN = b"labyard-ledger-v1"
HEAD_DOMAIN = b"labyard-ledger-head-v1"
NO_HASH = "0" * 64
GENESIS = "genesis"
SESSION = "session"

_BODY = (
    "version",
    "block_height",
    "prev_hash",
    "timestamp",
    "kind",
    "subject_id",
    "merkle_root",
    "chunk_count",
    "total_size_bytes",
    "manifest_sha256",
    "ledger_key_id",
)
ENTRY_FIELDS = (*_BODY, "transaction_hash", "signature")
_HEAD_BODY = ("version", "tree_size", "root_hash", "timestamp", "ledger_key_id")
HEAD_FIELDS = (*_HEAD_BODY, "signature")
_HEX = re.compile(r"[0-9a-f]+")

Entry = dict[str, Any]
Head = dict[str, Any]


class BadEvidence(Exception):
    """Something does not prove what it should. `item` names it, `reason` says what is wrong with it."""

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(f"{item}: {reason}")
        self.item = item
        self.reason = reason


class Signer:
    """The private key of a ledger."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key()
        self.key_id = key_id(self.public)

    def entry(
        self,
        previous: Entry | None,
        *,
        timestamp: str,
        kind: str,
        subject_id: str,
        merkle_root: str,
        chunk_count: int,
        total_size_bytes: int,
        manifest_sha256: str,
    ) -> Entry:
        """The entry after `previous`, or the genesis when there is none."""
        body: dict[str, Any] = {
            "version": VERSION,
            "block_height": previous["block_height"] + 1 if previous else 0,
            "prev_hash": previous["transaction_hash"] if previous else NO_HASH,
            "timestamp": timestamp,
            "kind": kind,
            "subject_id": subject_id,
            "merkle_root": merkle_root,
            "chunk_count": chunk_count,
            "total_size_bytes": total_size_bytes,
            "manifest_sha256": manifest_sha256,
            "ledger_key_id": self.key_id,
        }
        digest = sha256(rfc8785.dumps(body)).digest()
        return {
            **body,
            "transaction_hash": digest.hex(),
            "signature": self._key.sign(ENTRY_DOMAIN + digest).hex(),
        }

    def genesis(self, timestamp: str) -> Entry:
        return self.entry(
            None,
            timestamp=timestamp,
            kind=GENESIS,
            subject_id="ledger",
            merkle_root=merkle.EMPTY.hex(),
            chunk_count=0,
            total_size_bytes=0,
            manifest_sha256=sha256(b"").hexdigest(),
        )

    def head(self, leaves: Sequence[bytes], timestamp: str) -> Head:
        """A signed tree head over these entries' leaf hashes."""
        body: dict[str, Any] = {
            "version": VERSION,
            "tree_size": len(leaves),
            "root_hash": merkle.root(leaves).hex(),
            "timestamp": timestamp,
            "ledger_key_id": self.key_id,
        }
        return {**body, "signature": self._key.sign(HEAD_DOMAIN + sha256(rfc8785.dumps(body)).digest()).hex()}


def key_id(public: Ed25519PublicKey) -> str:
    """The name of a key: made from the key itself, so nothing has to be remembered."""
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"lk-{sha256(raw).hexdigest()[:16]}"


def entry_leaf(entry: Mapping[str, Any]) -> bytes:
    """The leaf hash of an entry in the ledger's tree. It covers the signature, too."""
    return merkle.leaf_hash(rfc8785.dumps({name: entry[name] for name in ENTRY_FIELDS}))


def check_entry(entry: Any, public: Ed25519PublicKey) -> None:
    """BadEvidence unless the entry is whole, its hash its own, and its signature this key's."""
    item = f"entry {entry.get('block_height')}" if isinstance(entry, dict) else "entry"
    _check_fields(item, entry, ENTRY_FIELDS)
    digest = sha256(_canonical(item, entry, _BODY)).digest()
    if entry["transaction_hash"] != digest.hex():
        raise BadEvidence(item, "its hash is not that of its content")
    _check_signature(item, entry, ENTRY_DOMAIN + digest, public)


def check_head(head: Any, public: Ed25519PublicKey) -> None:
    """BadEvidence unless the head is whole and its signature this key's."""
    _check_fields("head", head, HEAD_FIELDS)
    digest = sha256(_canonical("head", head, _HEAD_BODY)).digest()
    _check_signature("head", head, HEAD_DOMAIN + digest, public)


def check_chain(entries: Sequence[Any], public: Ed25519PublicKey) -> None:
    """BadEvidence, naming the first bad entry, unless these are all entries from the genesis on, in order."""
    previous = NO_HASH
    for height, entry in enumerate(entries):
        check_entry(entry, public)
        item = f"entry {entry['block_height']}"
        if entry["block_height"] != height:
            raise BadEvidence(item, f"stands where entry {height} belongs")
        if entry["prev_hash"] != previous:
            raise BadEvidence(item, "does not follow the entry before it")
        if (entry["kind"] == GENESIS) != (height == 0):
            raise BadEvidence(item, "a ledger begins with its genesis, and has one only")
        previous = entry["transaction_hash"]


def check_inclusion(entry: Mapping[str, Any], proof: Any, head: Mapping[str, Any]) -> None:
    """BadEvidence unless the proof {leaf_index, tree_size, path} leads from the entry to the head. Both are checked
    before."""
    _check_fields("inclusion", proof, ("leaf_index", "tree_size", "path"))
    if proof["leaf_index"] != entry["block_height"] or proof["tree_size"] != head["tree_size"]:
        raise BadEvidence("inclusion", "is of another entry or another head")
    found = merkle.root_from_inclusion(
        entry_leaf(entry), proof["leaf_index"], proof["tree_size"], hashes("inclusion", proof["path"])
    )
    if found is None or found.hex() != head["root_hash"]:
        raise BadEvidence("inclusion", "does not lead from the entry to the head")


def hashes(item: str, values: Any) -> list[bytes]:
    """A list of hashes, from hex. BadEvidence when it is none."""
    if not isinstance(values, list):
        raise BadEvidence(item, "is no list of hashes")
    return [_from_hex(item, value, 32) for value in values]


def _check_fields(item: str, values: Any, names: Sequence[str]) -> None:
    if not isinstance(values, dict) or set(values) != set(names):
        raise BadEvidence(item, f"has not the fields {', '.join(names)}")
    for name in ("block_height", "tree_size", "leaf_index", "chunk_count", "total_size_bytes"):
        if name in values and (type(values[name]) is not int or values[name] < 0):
            raise BadEvidence(item, f"{name} is no count")
    if values.get("version", VERSION) != VERSION:
        raise BadEvidence(item, f"is not of version {VERSION}")


def _canonical(item: str, values: Mapping[str, Any], names: Sequence[str]) -> bytes:
    try:
        return rfc8785.dumps({name: values[name] for name in names})
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise BadEvidence(item, f"cannot be written as canonical JSON: {error}") from None


def _check_signature(item: str, values: Mapping[str, Any], signed: bytes, public: Ed25519PublicKey) -> None:
    if values["ledger_key_id"] != key_id(public):
        raise BadEvidence(item, f"signed with the key {values['ledger_key_id']}, not with {key_id(public)}")
    try:
        public.verify(_from_hex(item, values["signature"], 64), signed)
    except InvalidSignature:
        raise BadEvidence(item, "its signature is wrong") from None


def _from_hex(item: str, value: Any, length: int) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value) or len(value) != 2 * length:
        raise BadEvidence(item, f"has something else where {length} bytes in lower-case hex belong")
    return bytes.fromhex(value)
