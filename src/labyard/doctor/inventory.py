"""Reads from the inventory what the doctor must know. Names and addresses live there and nowhere else."""

from __future__ import annotations

from pathlib import Path

from labyard.doctor.model import Settings
from labyard.inventory import Inventory, InventoryError

COLLECTION = Path("collections", "ansible_collections", "labyard", "lab")


def find_checkout() -> Path:
    """The checkout this program belongs to, else the one around the current folder, else that folder."""
    here = Path.cwd()
    for folder in (*Path(__file__).resolve().parents, here, *here.parents):
        if (folder / COLLECTION).is_dir():
            return folder
    return here


def settings_for(inventory: Path) -> Settings:
    """Settings for the lab of an inventory; what is wrong with the inventory stands in `networks_problem`."""
    checkout = find_checkout()
    try:
        return Settings(checkout=checkout, networks=tuple(read_networks(Inventory(inventory))))
    except InventoryError as error:
        return Settings(checkout=checkout, networks_problem=f"the inventory cannot be read: {error}")


def read_networks(inventory: Inventory) -> list[tuple[str, str]]:
    """Networks (name, subnet) that the lab makes on this machine; none when its hosts are machines of their own."""
    if "lab_containers" not in inventory.groups():
        return []
    host = inventory.hosts("lab_containers")[0]
    networks = [inventory.value(host, "lab_mgmt"), *inventory.value(host, "lab_segments")]
    return [(network["name"], network["subnet"]) for network in networks]
