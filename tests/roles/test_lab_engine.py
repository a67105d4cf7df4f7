"""What the role lab_engine promises, on the control machine."""

from __future__ import annotations

import json
import subprocess


class TestApplied:
    def test_engine_answers(self) -> None:
        done = subprocess.run(["docker", "version", "--format", "{{json .Server}}"], capture_output=True, check=True)
        assert json.loads(done.stdout)["ApiVersion"]
