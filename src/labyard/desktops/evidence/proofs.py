"""Proofs that leave the service, and their check: chunk -> root -> ledger entry -> signed head (contract 5.8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from labyard.desktops.evidence import ledger, merkle, objects
from labyard.desktops.evidence.ledger import BadEvidence, Entry, Head

VERSION = 1
CHUNK_FIELDS = (
    "version",
    "chunk_id",
    "sequence_number",
    "merkle_hash",
    "leaf_index",
    "chunk_count",
    "path",
    "entry",
    "inclusion",
    "head",
)
SESSION_FIELDS = ("version", "manifest", "entry", "inclusion", "head")

Manifest = dict[str, Any]
Proof = dict[str, Any]


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    return sha256(rfc8785.dumps(dict(manifest))).hexdigest()


def inclusion(leaves: Sequence[bytes], height: int) -> Proof:
    """That the entry at `height` is in the ledger with these leaves."""
    return {
        "leaf_index": height,
        "tree_size": len(leaves),
        "path": [step.hex() for step in merkle.inclusion_proof(leaves, height)],
    }


def session_proof(manifest: Manifest, entry: Entry, included: Proof, head: Head) -> Proof:
    return {"version": VERSION, "manifest": manifest, "entry": entry, "inclusion": included, "head": head}


def chunk_proof(manifest: Manifest, index: int, entry: Entry, included: Proof, head: Head) -> Proof:
    """That the chunk at `index` of the manifest is in the session."""
    leaves = [bytes.fromhex(chunk["merkle_hash"]) for chunk in manifest["chunks"]]
    chunk = manifest["chunks"][index]
    return {
        "version": VERSION,
        "chunk_id": chunk["chunk_id"],
        "sequence_number": chunk["sequence_number"],
        "merkle_hash": chunk["merkle_hash"],
        "leaf_index": index,
        "chunk_count": len(leaves),
        "path": [step.hex() for step in merkle.inclusion_proof(leaves, index)],
        "entry": entry,
        "inclusion": included,
        "head": head,
    }


def check_chunk(data: bytes, proof: Any, public: Ed25519PublicKey) -> None:
    """BadEvidence unless this object is the chunk that the proof is of, and the proof leads to a signed head."""
    fields = _fields("proof", proof, CHUNK_FIELDS)
    _check_anchor(fields, public)
    entry, item = fields["entry"], f"chunk {fields['chunk_id']}"
    for name in ("sequence_number", "leaf_index", "chunk_count"):
        if type(fields[name]) is not int:
            raise BadEvidence("proof", f"{name} is no number")
    if fields["chunk_count"] != entry["chunk_count"]:
        raise BadEvidence("proof", "counts other chunks than the entry")
    _check_object(item, data, entry["subject_id"], fields)
    found = merkle.root_from_inclusion(
        merkle.leaf_hash(data), fields["leaf_index"], fields["chunk_count"], ledger.hashes("proof", fields["path"])
    )
    if found is None or found.hex() != entry["merkle_root"]:
        raise BadEvidence(item, "its proof does not lead to the root in the entry")


def check_session(bundle: Any, read: Callable[[str], bytes], public: Ed25519PublicKey) -> int:
    """How many chunks were checked. `read(chunk_id)` gives an object. BadEvidence names the first bad item."""
    fields = _fields("bundle", bundle, SESSION_FIELDS)
    _check_anchor(fields, public)
    entry, manifest = fields["entry"], fields["manifest"]
    if not isinstance(manifest, dict) or _digest(manifest) != entry["manifest_sha256"]:
        raise BadEvidence("manifest", "is not the one in the entry")
    # What is signed was made by the service; a manifest without these fields was signed by something else.
    chunks = manifest.get("chunks")
    if manifest.get("session_id") != entry["subject_id"] or not isinstance(chunks, list):
        raise BadEvidence("manifest", "is not of the session in the entry")
    if len(chunks) != entry["chunk_count"]:
        raise BadEvidence("manifest", "has not as many chunks as the entry")
    leaves, size = [], 0
    for chunk in chunks:
        item = f"chunk {chunk['chunk_id']}"
        data = read(chunk["chunk_id"])
        _check_object(item, data, entry["subject_id"], chunk)
        leaves.append(merkle.leaf_hash(data))
        size += len(data)
    if merkle.root(leaves).hex() != entry["merkle_root"]:
        raise BadEvidence("manifest", "its chunks do not make the root in the entry")
    if size != entry["total_size_bytes"]:
        raise BadEvidence("manifest", "its chunks are not as many bytes as the entry says")
    return len(chunks)


def _check_anchor(fields: Mapping[str, Any], public: Ed25519PublicKey) -> None:
    ledger.check_entry(fields["entry"], public)
    ledger.check_head(fields["head"], public)
    ledger.check_inclusion(fields["entry"], fields["inclusion"], fields["head"])
    if fields["entry"]["kind"] != ledger.SESSION:
        raise BadEvidence("entry", "is not of a session")


def _check_object(item: str, data: bytes, session_id: str, wanted: Mapping[str, Any]) -> None:
    """That the object is the one that `wanted` names."""
    if merkle.leaf_hash(data).hex() != wanted["merkle_hash"]:
        raise BadEvidence(item, "was changed: its hash is another")
    try:
        header = objects.read_header(data)
    except objects.BadObject as error:
        raise BadEvidence(item, str(error)) from None
    number = wanted["sequence_number"]
    if (header.session_id, header.sequence_number) != (session_id, number):
        raise BadEvidence(item, f"is chunk {header.sequence_number} of {header.session_id}")
    if wanted["chunk_id"] != objects.chunk_id(session_id, number):
        raise BadEvidence(item, "has the name of another chunk")


def _digest(manifest: dict[str, Any]) -> str:
    try:
        return manifest_sha256(manifest)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise BadEvidence("manifest", f"cannot be written as canonical JSON: {error}") from None


def _fields(item: str, values: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != set(names):
        raise BadEvidence(item, f"has not the fields {', '.join(names)}")
    if values["version"] != VERSION:
        raise BadEvidence(item, f"is not of version {VERSION}")
    return values
