"""Labyard's pytest plugin: the fixture `vm` in any project, and those of a built lab where `labyard[control]` is."""

from __future__ import annotations

from importlib.util import find_spec

pytest_plugins = ["labyard.testing.vm.plugin"]
# A lab is reached as Ansible reaches it, and its services over HTTP.
if find_spec("ansible") and find_spec("httpx"):
    pytest_plugins.append("labyard.testing.lab_plugin")
