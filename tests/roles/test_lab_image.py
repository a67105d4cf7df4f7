"""What the role lab_image promises, on the control machine."""

from __future__ import annotations

import json
import subprocess

import pytest

from labyard.testing.lab_plugin import load_lab


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> str:
    inventory = load_lab(request.config).inventory
    return f"{inventory.value('localhost', 'lab_image_name')}:{inventory.value('localhost', 'lab_image_suite')}"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, check=True, text=True).stdout


class TestApplied:
    def test_systemd_is_its_command_and_the_label_says_whose_it_is(self, image: str) -> None:
        config = json.loads(docker("image", "inspect", image))[0]["Config"]
        assert config["Cmd"] == ["/sbin/init"]
        assert config["Labels"]["labyard"]

    def test_holds_what_ansible_and_systemd_need(self, image: str) -> None:
        programs = ["python3", "systemctl", "ip", "apt-get", "dbus-daemon"]
        found = docker("run", "--rm", "--network=none", "--label=labyard=check", image, "which", *programs)
        assert len(found.split()) == len(programs)
