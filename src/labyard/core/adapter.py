"""One real daemon behind three verbs. An adapter keeps no state of its own: it asks the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

Spec_contra = TypeVar("Spec_contra", contravariant=True)
Seen_co = TypeVar("Seen_co", covariant=True)


class AdapterError(Exception):
    """A daemon is not there, refused, or did not answer in time. The text names the daemon and what it said."""


class Adapter(Protocol[Spec_contra, Seen_co]):
    """Makes things so, makes them not so, and says what is there."""

    def apply(self, spec: Spec_contra) -> None:
        """Make one thing so. Idempotent. AdapterError when the daemon cannot."""

    def remove(self, key: str) -> None:
        """Make one thing not so; absent is fine. AdapterError when the daemon cannot."""

    def observed(self) -> Mapping[str, Seen_co]:
        """What is there now, by key: only things with names of Labyard's forms."""
