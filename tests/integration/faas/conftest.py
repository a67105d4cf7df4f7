"""What the tests of functions share."""

from __future__ import annotations

# The stock handler: a program of the guest's containers, whatever its name looks like.
collect_ignore = ["test_handler.py"]
