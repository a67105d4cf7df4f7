"""`labyard-verify`: checks recordings from the outside, with files and a public key only. No service, no network.

Exit status 0: good. 1: bad; the first bad item is named. 2: the input cannot be used (no such file, no key).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from labyard.desktops.evidence import ledger, merkle, proofs
from labyard.desktops.evidence.ledger import BadEvidence

GOOD, BAD, UNUSABLE = 0, 1, 2


class Unusable(Exception):
    """Nothing can be said about it: a file is not there, or the key is no key."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        print(options.check(options, public_key(_read(options.key), str(options.key))))
    except BadEvidence as bad:
        print(f"BAD {bad}", file=sys.stderr)
        return BAD
    except Unusable as error:
        print(f"labyard-verify: {error}", file=sys.stderr)
        return UNUSABLE
    return GOOD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="labyard-verify", description=__doc__)
    kinds = parser.add_subparsers(required=True, metavar="chunk|session|ledger")
    key = argparse.ArgumentParser(add_help=False)
    key.add_argument("--key", type=Path, required=True, help="the ledger's public key: PEM, or 64 hex digits")

    chunk = kinds.add_parser("chunk", parents=[key], help="one chunk object, by its proof")
    chunk.add_argument("object", type=Path)
    chunk.add_argument("proof", type=Path, help="from GET /sessions/{id}/chunks/{chunk_id}/proof")
    chunk.set_defaults(check=_chunk)

    session = kinds.add_parser("session", parents=[key], help="a whole session: all chunks, their order and count")
    session.add_argument("bundle", type=Path, help="from GET /sessions/{id}/proof")
    session.add_argument("chunks", type=Path, help="the folder with its objects, <chunk_id>.lyck")
    session.set_defaults(check=_session)

    whole = kinds.add_parser("ledger", parents=[key], help="every entry of a ledger")
    whole.add_argument("ledger", type=Path, help="one entry per line, from the genesis on")
    whole.add_argument("--head", type=Path, help="a signed head; without it entries cut off at the end are not noticed")
    whole.set_defaults(check=_ledger)
    return parser


def _chunk(options: argparse.Namespace, public: Ed25519PublicKey) -> str:
    proof = _json("proof", _read(options.proof))
    proofs.check_chunk(_read(options.object), proof, public)
    return f"good: chunk {proof['chunk_id']}, anchored at height {proof['entry']['block_height']}"


def _session(options: argparse.Namespace, public: Ed25519PublicKey) -> str:
    if not options.chunks.is_dir():
        raise Unusable(f"{options.chunks} is no folder")
    there = {path.stem for path in options.chunks.glob("*.lyck")}

    def read(chunk_id: str) -> bytes:
        if chunk_id not in there:
            raise BadEvidence(f"chunk {chunk_id}", "is missing")
        there.discard(chunk_id)
        return _read(options.chunks / f"{chunk_id}.lyck")

    bundle = _json("bundle", _read(options.bundle))
    count = proofs.check_session(bundle, read, public)
    if there:
        raise BadEvidence(f"chunk {min(there)}", "is not in the manifest")
    entry = bundle["entry"]
    return f"good: session {entry['subject_id']}, {count} chunks, anchored at height {entry['block_height']}"


def _ledger(options: argparse.Namespace, public: Ed25519PublicKey) -> str:
    lines = _read(options.ledger).splitlines()
    entries = [_json(f"entry {height}", line) for height, line in enumerate(lines)]
    if not entries:
        raise BadEvidence("entry 0", "is missing")
    ledger.check_chain(entries, public)
    if options.head:
        head = _json("head", _read(options.head))
        ledger.check_head(head, public)
        # The file may have grown since the head was signed.
        leaves = [ledger.entry_leaf(entry) for entry in entries]
        if head["tree_size"] > len(leaves):
            raise BadEvidence(f"entry {len(leaves)}", f"is missing: the head counts {head['tree_size']}")
        if merkle.root(leaves[: head["tree_size"]]).hex() != head["root_hash"]:
            raise BadEvidence("head", "is of other entries")
    return f"good: ledger, {len(entries)} entries, last {entries[-1]['transaction_hash']}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None


def _json(item: str, data: bytes) -> Any:
    """Evidence that is no JSON any more is bad: somebody changed it."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadEvidence(item, f"is no JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field is there twice")
    return values


def public_key(data: bytes, where: str) -> Ed25519PublicKey:
    """From PEM, or 64 hex digits. Unusable, naming where it came from."""
    data = data.strip()
    try:
        if re.fullmatch(rb"[0-9a-fA-F]{64}", data):
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(data.decode()))
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(f"{where} holds no public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Unusable(f"{where} holds a key of another kind than Ed25519")
    return key


def run() -> NoReturn:
    """The program `labyard-verify`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
