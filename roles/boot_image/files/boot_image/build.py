# Part of the role boot_image
"""Build what is asked for, and only what is not there already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from boot_image.disk import boot_files, write_image
from boot_image.options import FAT_START, Options
from boot_image.packages import find, unpacked
from boot_image.system import trees
from boot_image.tools import MIB, BuildError, read, run, temporary_folder
from boot_image.tree import Tree, compress

# Part of every stamp. Raise it when the layout of the image changes in a way that no input shows.
LAYOUT = "4"
OTHER_FORMATS = ("qcow2", "vhdx")


def digest(path: Path, size: int = -1) -> str:
    """Hash of the first bytes of a file, or of all of it. Empty when there is no such file."""
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while size and (block := file.read(MIB if size < 0 else min(MIB, size))):
                sha256.update(block)
                size = size if size < 0 else size - len(block)
    except FileNotFoundError:
        return ""
    return sha256.hexdigest()


def check_room(contents: dict[str, bytes], options: Options) -> None:
    """Say so before a tool runs out of space."""
    room = options.root_start - FAT_START
    needed = sum(map(len, contents.values())) + MIB
    if needed > room:
        raise BuildError(
            f"--size-mb {options.size_mb} is too small, at least {(needed - room) // MIB + 1} more are needed"
        )


def fingerprint(contents: dict[str, bytes], root: Tree, options: Options) -> str:
    """Hash of all that an image is made from."""
    inputs = hashlib.sha256(f"{LAYOUT} {options.size_mb} {options.root_mb}".encode())
    for name, content in (*contents.items(), ("root", root.cpio()), ("mbr", read(options.mbr))):
        inputs.update(f"{name} {len(content)}\n".encode() + content)
    return inputs.hexdigest()


def replace(path: Path, content: bytes) -> None:
    """Put a file in one step, readable by all."""
    with temporary_folder(path.parent) as work:
        new = work / path.name
        new.write_bytes(content)
        new.chmod(0o644)
        new.rename(path)


def published(options: Options, contents: dict[str, bytes]) -> dict[Path, bytes]:
    """Files for machines whose firmware loads kernel and initramfs itself, by path."""
    files = {name: contents[name] for name in ("vmlinuz", "initrd.img")}
    files["cmdline"] = f"{options.command_line}\n".encode()
    return {folder / name: content for folder in options.publish for name, content in files.items()}


def is_file(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def build_raw(contents: dict[str, bytes], root: Tree, options: Options, work: Path) -> None:
    """The raw image. What machines write to, root and scratch area, is no part of its stamp."""
    image = work / "image"
    write_image(image, contents, root, options, work)
    stamp = {"boot_area": digest(image, options.root_start), "inputs": fingerprint(contents, root, options)}
    new_stamp = work / "stamp"
    new_stamp.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    with image.open("rb") as file:
        os.fsync(file.fileno())
    image.chmod(0o644)
    # In this order a crash in between leaves a stamp that does not match, and the next run builds again.
    image.rename(options.output)
    new_stamp.rename(options.stamp)


def convert(name: str, options: Options, work: Path) -> str:
    """The image in another format; its hash."""
    new = work / f"image.{name}"
    run(["qemu-img", "convert", "-q", "-f", "raw", "-O", name, options.output, new])
    new.chmod(0o644)
    done = digest(new)
    new.rename(options.format_path(name))
    return done


def read_stamp(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stamp, dict):
            return stamp
    return {}


def build(options: Options) -> bool:
    """Build and publish what is not there already. Returns whether anything was (or would be) written."""
    roots = unpacked(options.cache)
    initramfs, root = trees(options, roots)
    kernel = read(find(roots, ["boot/vmlinuz-*"]))
    contents = boot_files(options, kernel, compress(initramfs.cpio(), options.compress))
    check_room(contents, options)

    stamp = read_stamp(options.stamp)
    raw_is_right = (
        stamp.get("inputs") == fingerprint(contents, root, options)
        and options.output.exists()
        and options.output.stat().st_size == options.size
        and stamp.get("boot_area") == digest(options.output, options.root_start)
    )
    wanted = [name for name in OTHER_FORMATS if name in options.formats]
    stale = [name for name in OTHER_FORMATS if name in stamp and name not in wanted]
    wrong = [
        name
        for name in wanted
        if not raw_is_right or not stamp.get(name) or stamp.get(name) != digest(options.format_path(name))
    ]
    unpublished = {
        path: content for path, content in published(options, contents).items() if not is_file(path, content)
    }
    right = raw_is_right and not (wrong or stale or unpublished)
    if options.check or right:
        return not right

    with temporary_folder(options.output.parent) as work:
        if not raw_is_right:
            build_raw(contents, root, options, work)
            stamp = read_stamp(options.stamp)
        for name in wrong:
            stamp[name] = convert(name, options, work)
        for name in stale:
            options.format_path(name).unlink(missing_ok=True)
            stamp.pop(name, None)
        if wrong or stale:
            replace(options.stamp, (json.dumps(stamp, indent=2) + "\n").encode())
    for path, content in unpublished.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content)
    return True
