"""Writes faasd and the command faas as single files that need nothing but Python: build/faasd.py and build/faas.

faasd.py has the modules of labyard.faas as source text, under the package name `_faasd`, so that they meet no installed
Labyard. A module is compiled when it is first imported: starting stays quick.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/labyard/faas"
NAME = "labyard.faas"
BUNDLED = "_faasd"
HEADER = "#!/usr/bin/env python3\n# Made by `make faas-single`; do not edit.\n"
ALONE = "cli"  # not in faasd.py: it is the other file

IMPORTER = '''

class _Importer:
    """Finds the modules of this file."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=_SOURCES[name][0]) if name in _SOURCES else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        # Tracebacks show lines: linecache asks get_source for those of a name in angle brackets.
        name = module.__name__
        exec(compile(_SOURCES[name][1], f"<faasd {name}>", "exec", dont_inherit=True), module.__dict__)

    def get_source(self, name):
        return _SOURCES[name][1]


sys.meta_path.insert(0, _Importer())
from _faasd.faasd import Registry, extract_docker_image, get_image_entrypoint, main  # noqa: E402

__all__ = ["Registry", "extract_docker_image", "get_image_entrypoint", "main"]

if __name__ == "__main__":
    main()
'''


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join([BUNDLED, *(part for part in parts if part != "__init__")])


def modules() -> dict[str, tuple[bool, str]]:
    """By name: is it a package, and its source."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem not in (ALONE, "__main__"):
            source = path.read_text().replace(NAME, BUNDLED)
            found[module_name(path)] = (path.name == "__init__.py", source)
    return found


def build(target: Path) -> None:
    """Write both files to a folder."""
    sources = modules()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:12]
    sources[f"{BUNDLED}.version"] = (False, f'"""The version."""\n\nVERSION = "{version}+{digest}"\n')
    lines = [f"    {name!r}: ({package!r}, {text!r})," for name, (package, text) in sources.items()]
    body = "\n".join(
        [
            '"""faasd in one file: functions from container images. Contract: faas.md, Part A."""',
            "import sys",
            "from importlib.machinery import ModuleSpec",
            "",
            "_SOURCES = {",
            *lines,
            "}",
        ]
    )
    target.mkdir(parents=True, exist_ok=True)
    write(target / "faasd.py", HEADER + body + IMPORTER)
    write(target / "faas", HEADER + (PACKAGE / f"{ALONE}.py").read_text().removeprefix("#!/usr/bin/env python3\n"))


def write(path: Path, text: str) -> None:
    """In one step: several test runs may make it at once."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.chmod(0o755)
    new.replace(path)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build")
