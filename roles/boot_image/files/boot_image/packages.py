# Part of the role boot_image
"""Packages that are unpacked into a cache and not installed."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from boot_image.tools import BuildError, run, temporary_folder

INDEX = "packages.json"
# Parts of a kernel that its meta package names.
KERNEL_PARTS = re.compile(r"^linux-(image|modules)-")


def candidate(package: str) -> dict[str, str]:
    """Fields of the newest version that apt knows of a package."""
    fields: dict[str, str] = {}
    for line in run(["apt-cache", "show", "--no-all-versions", package]).splitlines():
        name, colon, value = line.partition(": ")
        if colon and not line.startswith(" "):
            fields.setdefault(name, value)
    if "Version" not in fields:
        raise BuildError(f"apt knows no package {package}")
    return fields


def resolve(packages: Sequence[str]) -> dict[str, str]:
    """Names and versions to fetch. A kernel's meta package stands for the kernel that it names."""
    wanted: dict[str, str] = {}
    queue = list(packages)
    seen: set[str] = set()
    while queue:
        package = queue.pop(0)
        if package in seen:
            continue
        seen.add(package)
        fields = candidate(package)
        parts = [
            alternative.split("|")[0].split("(")[0].strip() for alternative in fields.get("Depends", "").split(",")
        ]
        parts = [part for part in parts if KERNEL_PARTS.match(part) and KERNEL_PARTS.match(package)]
        queue.extend(parts)
        # A meta package has nothing in it; a signed image may still depend on its modules.
        if not parts or re.search(r"\d+\.\d+\.\d+-", package):
            wanted[package] = fields["Version"]
    return wanted


def fetch(cache: Path, packages: Sequence[str], check: bool) -> bool:
    """Download and unpack packages into the cache. Returns whether that was (or would be) needed."""
    wanted = resolve(packages)
    have: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        have = json.loads((cache / INDEX).read_text(encoding="utf-8"))
    folders = {name: f"{name}_{version.replace(':', '%3a')}" for name, version in wanted.items()}
    if have == folders and all((cache / folder).is_dir() for folder in folders.values()):
        return False
    if check:
        return True
    with temporary_folder(cache) as work:
        for name, version in wanted.items():
            if (cache / folders[name]).is_dir():
                continue
            # apt's own user cannot write here, and nothing but apt's verified download is done.
            run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{name}={version}"], cwd=work)
            archives = list(work.glob("*.deb"))
            run(["dpkg-deb", "-x", archives[0], work / name])
            archives[0].unlink()
            (work / name).rename(cache / folders[name])
        index = work / INDEX
        index.write_text(json.dumps(folders, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        index.rename(cache / INDEX)
    for folder in set(have.values()) - set(folders.values()):
        shutil.rmtree(cache / folder, ignore_errors=True)
    return True


def unpacked(cache: Path) -> list[Path]:
    """Folders of the packages in the cache."""
    try:
        folders = json.loads((cache / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{cache} holds no packages yet: run the fetch command first") from error
    return [cache / folder for folder in folders.values()]


def find(roots: Sequence[Path], patterns: Sequence[str]) -> Path:
    """The first file that one of the patterns matches in one of the packages."""
    for root in roots:
        for pattern in patterns:
            for path in sorted(root.glob(pattern)):
                if path.is_file() and not path.is_symlink():
                    return path
    raise BuildError(f"no {' or '.join(patterns)} in {', '.join(root.name for root in roots)}")
