"""Image archives for tests of functions."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labyard.testing.faas import archives
from labyard.testing.faas.archives import Member

FORMS = {
    "docker": archives.docker_archive,
    "docker save, older": archives.docker_save_old,
    "docker save, 25 and later": lambda layers, **inner: archives.oci_layout(layers, with_docker=True, **inner),
    "copying tools": archives.docker_flat,
    "OCI": archives.oci_layout,
    "OCI, nested index": lambda layers, **inner: archives.oci_layout(layers, nested=True, **inner),
}
LAYERS_IN_VM = "/root/layers.tar"


def create_test_image(
    directory: Path,
    layers: Sequence[Mapping[str, bytes] | Sequence[Member | Mapping[str, bytes]]],
    cmd: list[str] | None = None,
    entrypoint: list[str] | None = None,
    form: str = "docker",
    name: str = "image.tar",
    **config: Any,
) -> Path:
    """Write an image archive in one of FORMS; where it is.

    A layer is a mapping of path and content, or a list of such and of `Member`s. `config`: what else the image's
    configuration has, such as `Env` or `User`.
    """
    packed = [archives.layer(*([layer] if isinstance(layer, Mapping) else layer)) for layer in layers]
    given = {key: value for key, value in (("Cmd", cmd), ("Entrypoint", entrypoint)) if value is not None}
    path = directory / name
    path.write_bytes(FORMS[form](packed, **given, **config))
    return path


def shared_layers(layers: Sequence[bytes]) -> bytes:
    """An archive of layers alone, as `put_image` completes it."""
    return archives.tar({f"layer{number}.tar": layer for number, layer in enumerate(layers)})


def put_image(vm: Any, path: str, layers: Sequence[bytes], **inner: Any) -> str:
    """Write an archive in the VM with another configuration (`Cmd`, `Entrypoint`, …) above the layers of LAYERS_IN_VM.

    Only the configuration is sent, a few hundred bytes. Returns `path`.
    """
    vm.write_file(f"{path}.head", image_head(layers, **inner))
    vm.run(f"cat {path}.head {LAYERS_IN_VM} > {path}")
    return path


def image_head(layers: Sequence[bytes], **inner: Any) -> bytes:
    """What makes an archive when `shared_layers` follows it."""
    names = [f"layer{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["test:latest"], "Layers": names}]
    head = {"config.json": archives.config(layers, **inner), "manifest.json": json.dumps(manifest).encode()}
    archive = archives.tar(head)
    # Without the empty blocks that say that nothing follows.
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        last = tar.getmembers()[-1]
    return archive[: last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE]
