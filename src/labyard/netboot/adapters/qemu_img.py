"""qemu-img: what a disk image really is, and conversion. Image files come from outside; nothing in them is believed.

Header layouts: QEMU docs/interop/qcow2.txt, VMware Virtual Disk Format 5.0, Microsoft VHD 1.0, QEMU block/vdi.c.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from struct import unpack_from
from typing import Any

from labyard.core.adapter import AdapterError

PROBE_SECONDS = 60
PROBE_MEMORY = 2 * 1024**3
STALL_SECONDS = 600
SECTOR = 512

_TOOL_NAMES = {"vhd": "vpc"}
_CREATE_OPTIONS = {"vhd": "force_size=on"}  # else the size is rounded up to whole cylinders
_ONE_FILE_VMDK = {"monolithicSparse", "streamOptimized"}
_MAGICS = {
    b"vhdxfile": "vhdx",
    b"KDMV": "vmdk",
    b"conectix": "vhd",
    b"COWD": "vmdk of an old ESX server",
    b"# Disk DescriptorFile": "vmdk descriptor, which names other files",
    b"QED\0": "qed",
    b"LUKS\xba\xbe": "luks",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
}
_QCOW2_DATA_FILE = 1 << 2
_VHD_DIFFERENCING = 4
_SOUND = {0, 3, 63}  # of `qemu-img check`: no fault; leaked clusters; the format has no check
_PROGRESS = re.compile(rb"\((\d+)\.\d+/100%\)")


class ImageRefused(Exception):
    """The file is not what it says, or could pull in other files. The text is for people."""


class Stopped(Exception):
    """The work was given up because the service stops."""


def tool_format(name: str) -> str:
    """The contract's name of a format as the tools call it."""
    return _TOOL_NAMES.get(name, name)


def inspect(path: Path, image_format: str) -> int:
    """Check that a file is an image of this format that stands by itself; its virtual size in bytes.

    The header is read here first, so that qemu-img never opens a file that another one names, and it is told the
    format, so that a guest cannot make a raw disk pass for something else (contract section 9).
    ImageRefused; AdapterError when qemu-img is missing or does not end; OSError.
    """
    if problem := _header_problem(path, image_format):
        raise ImageRefused(problem)
    done = _read("info", "--output=json", "-f", tool_format(image_format), str(path))
    if done.returncode:
        raise ImageRefused(f"qemu-img cannot read the file as {image_format}: {_reason(done.stderr, done.returncode)}")
    info = json.loads(done.stdout)
    if problem := _info_problem(info, path, image_format):
        raise ImageRefused(problem)
    # What `info` takes may still be cut off in the middle.
    done = _read("check", "-f", tool_format(image_format), str(path))
    if done.returncode not in _SOUND:
        detail = _reason(done.stderr, done.returncode)
        raise ImageRefused(f"The image is damaged or cut off. Upload it again. qemu-img check says: {detail}")
    return int(info["virtual-size"])


def _read(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    limits = ["prlimit", f"--as={PROBE_MEMORY}", f"--cpu={PROBE_SECONDS}", "--"]
    try:
        return subprocess.run([*limits, *_qemu_img(*arguments)], capture_output=True, timeout=PROBE_SECONDS, env=_env())
    except FileNotFoundError as error:
        raise AdapterError(f"{error.filename} is not installed; install qemu-utils and util-linux") from None
    except subprocess.TimeoutExpired:
        raise AdapterError(f"qemu-img did not finish reading the image within {PROBE_SECONDS} s") from None


def convert(
    source: Path,
    source_format: str,
    output: Path,
    output_format: str,
    progress: Callable[[int], object],
    stopped: Callable[[], bool],
) -> None:
    """Write `source` as a sparse image of another format. `progress` is told percents.

    The caller has inspected `source`, and removes `output` when this fails.
    AdapterError with what qemu-img said; Stopped soon after `stopped()` says so.
    """
    options = ["-o", _CREATE_OPTIONS[output_format]] if output_format in _CREATE_OPTIONS else []
    # The default cache mode for the output is "unsafe": it would never be flushed to the disk.
    command = ["convert", "-p", "-t", "writeback", "-f", tool_format(source_format), "-O", tool_format(output_format)]
    command += [*options, str(source), str(output)]
    with tempfile.TemporaryFile() as errors:
        try:
            tool = subprocess.Popen(
                ["nice", "-n", "10", *_qemu_img(*command)], stdout=subprocess.PIPE, stderr=errors, env=_env()
            )
        except FileNotFoundError as error:
            raise AdapterError(f"{error.filename} is not installed; install qemu-utils") from None
        try:
            _follow(tool, progress, stopped)
            code = tool.wait(PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AdapterError("qemu-img closed its output but does not end") from None
        finally:
            if tool.poll() is None:
                tool.kill()
            tool.wait()
            if tool.stdout:
                tool.stdout.close()
        if code:
            errors.seek(0)
            raise AdapterError(f"qemu-img could not convert it: {_reason(errors.read(), code)}")


def _follow(tool: subprocess.Popen[bytes], progress: Callable[[int], object], stopped: Callable[[], bool]) -> None:
    assert tool.stdout is not None
    last = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(tool.stdout, selectors.EVENT_READ)
        while True:
            if stopped():
                raise Stopped
            if not selector.select(timeout=0.5):
                if time.monotonic() - last > STALL_SECONDS:
                    raise AdapterError(f"qemu-img made no progress for {STALL_SECONDS} s and was ended")
                continue
            data = os.read(tool.stdout.fileno(), 4096)
            if not data:
                return
            if found := _PROGRESS.findall(data):
                last = time.monotonic()
                progress(int(found[-1]))


def _qemu_img(*arguments: str) -> list[str]:
    # pdeathsig: after a `kill -9` of the service no qemu-img goes on writing to a file that the restart removes.
    return ["setpriv", "--pdeathsig=KILL", "--", "qemu-img", *arguments]


def _env() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _reason(stderr: bytes, code: int) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    text = lines[-1] if lines else f"it ended with status {code}"
    return re.sub(r"^qemu-img: (Could not open '[^']*': )?", "", text)[:500]


def _content(head: bytes, tail: bytes) -> str:
    if head[:4] == b"QFI\xfb":
        return "qcow2" if unpack_from(">I", head, 4)[0] in (2, 3) else "qcow"
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return name
    if head[0x40:0x44] == b"\x7f\x10\xda\xbe":
        return "vdi"
    return "vhd" if tail.startswith(b"conectix") else "raw"


def _header_problem(path: Path, image_format: str) -> str:
    with path.open("rb") as file:
        head = file.read(SECTOR).ljust(SECTOR, b"\0")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - SECTOR))
        tail = file.read(SECTOR).ljust(SECTOR, b"\0")
    if not size:
        return "The file is empty"
    content = _content(head, tail)
    if content != image_format:
        return f"The file says it is {image_format}, but its content is {content}. Give it the extension of its content"
    if content == "qcow2":
        version, backing = unpack_from(">IQ", head, 4)
        if backing:
            return _leans_on("a backing file")
        if version >= 3 and unpack_from(">Q", head, 72)[0] & _QCOW2_DATA_FILE:
            return _leans_on("an external data file")
    if content == "vmdk" and not unpack_from("<q", head, 12)[0]:
        return _leans_on("extents in other files")
    if content == "vdi":
        # qemu-img check does not look whether the blocks of this format are there.
        data_offset, block_size, _, allocated = (unpack_from("<I", head, at)[0] for at in (0x158, 0x178, 0x180, 0x184))
        if size < data_offset + block_size * allocated:
            return "The image is cut off. Upload it again"
    if content == "vhd" and _VHD_DIFFERENCING in (unpack_from(">I", part, 60)[0] for part in (head, tail)):
        return _leans_on("a parent disk")
    return ""


def _info_problem(info: dict[str, Any], path: Path, image_format: str) -> str:
    """The same again as qemu-img sees it, and what only it can see."""
    details = info.get("format-specific", {}).get("data", {})
    if info.get("format") != tool_format(image_format):
        return f"The file says it is {image_format}, but qemu-img reads it as {info.get('format')}"
    if info.get("backing-filename") or int(details.get("parent-cid", 0xFFFFFFFF)) != 0xFFFFFFFF:
        return _leans_on("a backing file")
    if details.get("data-file"):
        return _leans_on("an external data file")
    if image_format == "vmdk" and (
        details.get("create-type") not in _ONE_FILE_VMDK
        or any(extent.get("filename") != str(path) for extent in details.get("extents", []))
    ):
        return _leans_on("extents in other files")
    if info.get("encrypted"):
        return "The image is encrypted. Decrypt it with qemu-img convert, then upload it again"
    if details.get("corrupt"):
        return "The image is marked corrupt. Repair it with `qemu-img check -r all`, then upload it again"
    if int(info.get("virtual-size", 0)) <= 0:
        return "The image holds a disk of size 0"
    return ""


def _leans_on(what: str) -> str:
    return f"The image leans on {what}. Make it whole with `qemu-img convert`, then upload it again"
