"""What a recorder cannot do without."""

from __future__ import annotations


class NoPicture(Exception):
    """The display does not answer, or shows nothing that can be captured."""
