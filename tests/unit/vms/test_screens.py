"""A machine's screen as a PNG, whatever the hypervisor gives."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from labyard.core.errors import ServiceError

from .conftest import Lab
from .fakes import BOOM

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png_of(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def web(lab: Lab) -> Lab:
    lab.make(running=True)
    return lab


@pytest.mark.parametrize("age", ["old", "new"])
def test_ppm_and_png_come_out_as_png(web: Lab, age: str) -> None:
    """QEMU before 7.1 knows PPM only."""
    if age == "new":
        with Image.open(io.BytesIO(web.hypervisor.picture)) as picture:
            web.hypervisor.picture = png_of(picture)
    with Image.open(io.BytesIO(web.manager.screens.png("web"))) as screen:
        assert (screen.format, screen.size) == ("PNG", (2, 1))
        assert [screen.getpixel((x, 0)) for x in range(2)] == [RED, BLUE]


def refusal(lab: Lab, vm_id: str = "web") -> tuple[int, object]:
    with pytest.raises(ServiceError) as error:
        lab.manager.screens.png(vm_id)
    return error.value.status, error.value.detail


def test_who_has_no_screen(web: Lab) -> None:
    assert refusal(web, "nobody") == (404, "VM not found")
    web.manager.vms.stop("web")
    assert refusal(web) == (400, "VM is not running (current state: stopped)")


def test_a_wrong_row_shows_no_screen_of_a_machine_that_is_off(web: Lab) -> None:
    web.hypervisor.all["web"].active = False
    assert refusal(web) == (400, "VM is not running (current state: running)")


def test_a_hypervisor_that_refuses(web: Lab) -> None:
    web.hypervisor.faults["screenshot"] = BOOM
    assert refusal(web) == (400, "Failed to take a screenshot: boom failed: no reason")


@pytest.mark.parametrize("picture", [b"", b"P6 2 1 255\n", b"no picture"])
def test_what_is_no_picture(web: Lab, picture: bytes) -> None:
    web.hypervisor.picture = picture
    status, detail = refusal(web)
    assert status == 400 and str(detail).startswith("Failed to take a screenshot: reading the picture failed: ")
