"""Settings of the netboot service (contract section 1)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from labyard.netboot.settings import Settings


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "lab",
        "iqn.2025-13.lab",
        "iqn.2025-01.lab_1",
        "iqn.2025-01.Lab",
        "iqn.٢٠٢٥-01.lab",
        "iqn.2025-01." + "a" * 180,
    ],
)
def test_an_iqn_prefix_that_gives_no_valid_iqn_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="IQN_PREFIX"):
        Settings(iqn_prefix=prefix)


def test_a_long_iqn_prefix_is_fine_while_every_iqn_of_it_fits() -> None:
    assert Settings(iqn_prefix="iqn.2025-01." + "a" * 175)
