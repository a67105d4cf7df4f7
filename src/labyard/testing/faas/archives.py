"""Image archives made by hand, in the shapes that they have in the field (contract section 6)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any


class Member:
    """One member of a layer, for what a name and bytes cannot say."""

    def __init__(self, name: str, content: bytes = b"", **attributes: Any) -> None:
        self.info = tarfile.TarInfo(name)
        self.info.size = len(content)
        self.info.mode = 0o644
        self.content = content
        for key, value in attributes.items():
            setattr(self.info, key, value)


def directory(name: str, **attributes: Any) -> Member:
    return Member(name, **{"type": tarfile.DIRTYPE, "mode": 0o755, **attributes})


def symlink(name: str, target: str) -> Member:
    return Member(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Member:
    return Member(name, type=tarfile.LNKTYPE, linkname=target)


def layer(*members: Member | Mapping[str, bytes]) -> bytes:
    """The bytes of a layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            rows = [member] if isinstance(member, Member) else [Member(name, data) for name, data in member.items()]
            for row in rows:
                tar.addfile(row.info, io.BytesIO(row.content))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config(layers: Iterable[bytes], **inner: Any) -> bytes:
    """A configuration document; `Cmd`, `Entrypoint`, `Env`, `WorkingDir`, `User` by name."""
    diff_ids = [f"sha256:{sha256(data)}" for data in layers]
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "config": inner, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()


def tar(*members: Member | Mapping[str, bytes]) -> bytes:
    return layer(*members)


def docker_archive(layers: list[bytes], **inner: Any) -> bytes:
    """What tests make by hand: `layer0.tar`, `config.json`, `manifest.json`."""
    names = [f"layer{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["test:latest"], "Layers": names}]
    return tar(
        dict(zip(names, layers, strict=True)),
        {"config.json": config(layers, **inner), "manifest.json": json.dumps(manifest).encode()},
    )


def docker_save_old(layers: list[bytes], **inner: Any) -> bytes:
    """`docker save` before version 25: a folder for each layer, a repeated one as a symbolic link."""
    members: list[Member | Mapping[str, bytes]] = []
    names: list[str] = []
    seen: dict[bytes, str] = {}
    for number, data in enumerate(layers):
        folder = sha256(f"{number}".encode())
        members += [directory(f"{folder}/"), {f"{folder}/VERSION": b"1.0", f"{folder}/json": b"{}"}]
        if data in seen:
            members.append(symlink(f"{folder}/layer.tar", f"../{seen[data]}/layer.tar"))
        else:
            seen[data] = folder
            members.append({f"{folder}/layer.tar": data})
        names.append(f"{folder}/layer.tar")
    document = config(layers, **inner)
    name = f"{sha256(document)}.json"
    manifest = [{"Config": name, "RepoTags": None, "Layers": names, "Parent": "sha256:0"}]
    return tar(*members, {name: document, "manifest.json": json.dumps(manifest).encode(), "repositories": b"{}"})


def docker_flat(layers: list[bytes], **inner: Any) -> bytes:
    """As copying tools write a docker-archive: `<digest>.tar`, and links to them in folders."""
    document = config(layers, **inner)
    files = {f"{sha256(data)}.tar": data for data in layers}
    links = [symlink(f"{sha256(data)[::-1]}/layer.tar", f"../{sha256(data)}.tar") for data in layers]
    manifest = [
        {
            "Config": f"{sha256(document)}.json",
            "RepoTags": ["docker.io/library/test:latest"],
            "Layers": list(files),
        }
    ]
    return tar(files, *links, {f"{sha256(document)}.json": document, "manifest.json": json.dumps(manifest).encode()})


def oci_layout(layers: list[bytes], nested: bool = False, with_docker: bool = False, **inner: Any) -> bytes:
    """An OCI layout, layers gzipped; `nested`: by an index of two platforms; `with_docker`: as docker 25 saves it."""
    stored = [gzip.compress(data) for data in layers]
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, **more: Any) -> dict[str, Any]:
        blobs[f"blobs/sha256/{sha256(data)}"] = data
        return {"digest": f"sha256:{sha256(data)}", "size": len(data), **more}

    document = blob(config(layers, **inner))
    manifest = blob(
        json.dumps({"schemaVersion": 2, "config": document, "layers": [blob(data) for data in stored]}).encode()
    )
    if nested:
        other = blob(b'{"schemaVersion": 2, "config": {}, "layers": []}')
        entries = [
            {**other, "platform": {"os": "linux", "architecture": "s390x"}},
            {**manifest, "platform": {"os": "linux", "architecture": "amd64"}},
        ]
        manifest = blob(json.dumps({"manifests": entries}).encode())
    top = {
        "index.json": json.dumps({"manifests": [manifest]}).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }
    if with_docker:
        names = [f"blobs/sha256/{sha256(data)}" for data in stored]
        entry = {"Config": f"blobs/sha256/{document['digest'][7:]}", "RepoTags": ["test:latest"], "Layers": names}
        top["manifest.json"] = json.dumps([entry]).encode()
        top["index.json"] = b'{"manifests": []}'
    return tar(directory("blobs/"), directory("blobs/sha256/"), blobs, top)
