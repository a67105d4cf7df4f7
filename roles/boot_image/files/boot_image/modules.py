# Part of the role boot_image
"""Kernel modules: which ones, in which order."""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boot_image.tools import BuildError, pipe, read


def module_name(path: Path) -> str:
    """Name of a module as the kernel spells it."""
    return path.name.split(".ko")[0].replace("-", "_")


def module_content(path: Path) -> bytes:
    """A module, unpacked if the kernel package has it compressed."""
    if path.suffix == ".xz":
        return lzma.decompress(read(path))
    if path.suffix == ".zst":
        return pipe(["zstd", "-dcq"], read(path))
    return read(path)


@dataclass
class Modules:
    """The modules of a kernel. Dependencies come from the modules: no package ships modules.dep."""

    paths: dict[str, Path]
    builtin: set[str]
    contents: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, roots: Sequence[Path]) -> Modules:
        paths: dict[str, Path] = {}
        builtin: set[str] = set()
        for root in roots:
            for folder in (root / "lib/modules", root / "usr/lib/modules"):
                paths.update({module_name(path): path for path in sorted(folder.rglob("*.ko*"))})
                for names in folder.glob("*/modules.builtin"):
                    builtin.update(module_name(Path(line)) for line in names.read_text().split())
        if not paths:
            raise BuildError("no kernel modules in the cache")
        return cls(paths, builtin)

    def in_order(self, names: Sequence[str], loaded: set[str]) -> list[str]:
        """Modules to load for the named ones, each after those it needs. Adds them to loaded."""
        order: list[str] = []
        for name in names:
            name = name.replace("-", "_")
            if name in loaded or name in self.builtin:
                continue
            if name not in self.paths:
                raise BuildError(f"the kernel has no module {name}")
            loaded.add(name)
            content = self.contents[name] = module_content(self.paths[name])
            info = re.search(rb"\0depends=([^\0]*)\0", content)
            needed = [part for part in (info.group(1).decode() if info else "").split(",") if part]
            order += [*self.in_order(needed, loaded), name]
        return order
