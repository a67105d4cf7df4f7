"""The two single files behave as the package does: started, deployed to, asked, stopped (contract section 12)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from labyard.testing.faas.host import Host

SCRIPT = Path(__file__).parents[3] / "scripts/faas_single.py"


def test_single_files(host: Host, image: Callable[..., bytes]) -> None:
    root = host.path("/var/lib/root")
    subprocess.run([sys.executable, SCRIPT, root], check=True)
    host.path("/run/image.tar").write_bytes(image())
    host.start(program=("/var/lib/root/faasd.py",))
    done = host.run("sh", "-c", "cat /run/image.tar | /var/lib/root/faas new th")
    assert "✓ Deployed th at 10.0.0.10" in done.stdout
    assert "Command: ['python3', '/app/handler.py']" in done.stdout
    assert host.run("/var/lib/root/faas", "ip", "th").stdout == "10.0.0.10\n"
    assert "Hello from FaaS handler!" in host.get("10.0.0.10").text
    host.settle()
    assert host.stop() == 0
    assert not [ip for ip in host.addresses() if ip.startswith("10.0.0.")]
