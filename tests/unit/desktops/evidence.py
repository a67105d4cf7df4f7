"""A small recording with its proofs, as the service makes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labyard.desktops.evidence import ledger, merkle, objects, proofs
from labyard.desktops.evidence.compression import Compression

SESSION = "sess-0123456789abcdef"
KEY = objects.Key("dk-0011223344556677", bytes(range(32)))
SIGNER = ledger.Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
NOON = "2026-01-01T12:00:00.000000Z"


def piece(number: int, session_id: str = SESSION) -> objects.Slice:
    return objects.Slice(session_id, number, NOON, 2000, 640, 480, 10)


@dataclass
class Recording:
    """`folder` holds objects/, bundle.json, chunk proofs, ledger.jsonl, head.json and key.pem."""

    folder: Path
    entries: list[ledger.Entry]

    @property
    def key(self) -> str:
        return str(self.folder / "key.pem")

    def session(self) -> list[str]:
        return ["session", "--key", self.key, str(self.folder / "bundle.json"), str(self.folder / "objects")]

    def ledger(self) -> list[str]:
        head = str(self.folder / "head.json")
        return ["ledger", "--key", self.key, str(self.folder / "ledger.jsonl"), "--head", head]

    def chunk(self, number: int) -> list[str]:
        name = objects.chunk_id(SESSION, number)
        proof = str(self.folder / f"{name}.json")
        return ["chunk", "--key", self.key, str(self.folder / "objects" / f"{name}.lyck"), proof]


def record(folder: Path, chunks: int = 5) -> Recording:
    """Write a recording of so many chunks, whose entry stands between two others."""
    (folder / "objects").mkdir()
    listed = []
    for number in range(1, chunks + 1):
        data = objects.pack(piece(number), b"picture %d" % number * 3, Compression.ZSTD, KEY)
        name = objects.chunk_id(SESSION, number)
        (folder / "objects" / f"{name}.lyck").write_bytes(data)
        digest = merkle.leaf_hash(data).hex()
        listed.append(
            {"chunk_id": name, "sequence_number": number, "merkle_hash": digest, "stored_size_bytes": len(data)}
        )
    manifest: dict[str, Any] = {"version": 1, "session_id": SESSION, "chunks": listed, "gaps": []}
    root = merkle.root([bytes.fromhex(chunk["merkle_hash"]) for chunk in listed])
    entries = [SIGNER.genesis(NOON)]
    for subject in ("sess-00000000000000aa", SESSION, "sess-00000000000000bb"):
        entries.append(
            SIGNER.entry(
                entries[-1],
                timestamp=NOON,
                kind=ledger.SESSION,
                subject_id=subject,
                merkle_root=root.hex(),
                chunk_count=chunks,
                total_size_bytes=sum(chunk["stored_size_bytes"] for chunk in listed),
                manifest_sha256=proofs.manifest_sha256(manifest),
            )
        )
    leaves = [ledger.entry_leaf(entry) for entry in entries]
    head = SIGNER.head(leaves, NOON)
    included = proofs.inclusion(leaves, 2)
    bundle = proofs.session_proof(manifest, entries[2], included, head)
    (folder / "bundle.json").write_text(json.dumps(bundle, indent=1))
    for index, chunk in enumerate(listed):
        proof = proofs.chunk_proof(manifest, index, entries[2], included, head)
        (folder / f"{chunk['chunk_id']}.json").write_text(json.dumps(proof, indent=1))
    (folder / "ledger.jsonl").write_bytes(b"".join(rfc8785.dumps(entry) + b"\n" for entry in entries))
    (folder / "head.json").write_text(json.dumps(head, indent=1))
    (folder / "key.pem").write_bytes(
        SIGNER.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return Recording(folder, entries)
