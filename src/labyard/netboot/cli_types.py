"""Arguments and options that the commands of `labyard netboot` share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labyard.netboot.client import Client

MachineArgument = Annotated[str, typer.Argument(help="A registered machine, by name or id.")]
ImageArgument = Annotated[str, typer.Argument(help="An image, by name or id.")]


class Method(StrEnum):
    """As labyard.netboot.models.BootMethod, which needs the database library; a unit test compares them."""

    SANBOOT = "sanboot"
    ISCSI_ROOT = "iscsi_root"
    RAM_ROOT = "ram_root"


class Transport(StrEnum):
    TFTP = "tftp"
    HTTP = "http"


class StartPower(StrEnum):
    NONE = "none"
    CYCLE = "cycle"


class StopPower(StrEnum):
    NONE = "none"
    OFF = "off"


class Firmware(StrEnum):
    LEGACY = "legacy"
    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE = "uefi_secure"


class MachineStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


class ImageType(StrEnum):
    SYSTEM = "system"
    GAME = "game"
    DATA = "data"
    TEMPLATE = "template"


class Format(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"
    VHDX = "vhdx"
    VMDK = "vmdk"
    VDI = "vdi"


def client(ctx: typer.Context) -> Client:
    """The client of the lab that the command line named."""
    found: Client = ctx.obj.client
    return found
