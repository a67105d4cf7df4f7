"""Machines: contract section 5.2."""

from __future__ import annotations

import ipaddress
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.clock import now
from labyard.core.database import Database
from labyard.core.errors import ServiceError, conflict, invalid, not_found
from labyard.core.paging import Page, fetch
from labyard.core.secretbox import SecretBox
from labyard.netboot.models import Machine
from labyard.netboot.names import dhcp_label
from labyard.netboot.schemas import HIDDEN, MachineCreate, MachineUpdate
from labyard.netboot.service.lookups import in_use, live_session
from labyard.netboot.settings import Settings

SEARCHED = (Machine.name, Machine.mac_address, Machine.hostname, Machine.location, Machine.asset_tag)
# What DHCP and the script were made from: fixed while a session is live.
FIXED_IN_SESSION = {"name", "mac_address", "ip_address", "hostname", "boot_mode"}
NOT_NULL = {"name", "mac_address", "boot_mode", "secure_boot_enabled", "status", "bmc_verify_tls"}
NO_BMC = {"bmc_username": None, "bmc_password": None, "bmc_verify_tls": True}


class Machines:
    def __init__(self, database: Database, settings: Settings, box: SecretBox) -> None:
        self._db = database
        self._settings = settings
        self._box = box

    def create(self, given: MachineCreate, created_by: int) -> Machine:
        """409 for a name, label, MAC or address that another machine has."""
        values = given.model_dump()
        self._check_address(values.get("ip_address"))
        if values["bmc_url"] is None:
            _refuse_without_url(values)
        if values["bmc_password"] is not None:
            values["bmc_password"] = self._box.seal(values["bmc_password"])
        with self._db.write() as session:
            machine = Machine(**values, label=dhcp_label(given.name), created_by=created_by)
            _refuse_duplicates(session, machine)
            session.add(machine)
            _flush(session)
            audit.record(
                session,
                "machine_created",
                f"machine {machine.name} created",
                resource=("machine", machine.id),
                new=_told(values),
                status_code=201,
            )
        return machine

    def get(self, machine_id: int) -> Machine:
        with self._db.read() as session:
            return require(session, machine_id)

    def list(self, page: Page, search: str | None = None, **equal: str | None) -> tuple[list[Machine], int]:
        """Newest first. `search` is a literal, case-insensitive part of any searched field."""
        query = select(Machine).where(Machine.deleted_at.is_(None))
        for column, value in equal.items():
            if value is not None:
                query = query.where(getattr(Machine, column) == value)
        if search:
            query = query.where(or_(*(column.icontains(search, autoescape=True) for column in SEARCHED)))
        with self._db.read() as session:
            return fetch(session, query.order_by(Machine.id.desc()), page)

    def update(self, machine_id: int, given: MachineUpdate) -> Machine:
        values = given.model_dump(exclude_unset=True)
        for field in NOT_NULL & values.keys():
            if values[field] is None:
                raise invalid(field, "may not be null", None)
        self._check_address(values.get("ip_address"))
        with self._db.write() as session:
            machine = require(session, machine_id)
            self._complete_bmc(machine, values)
            old = {field: getattr(machine, field) for field in values}
            changed = {field: value for field, value in values.items() if old[field] != value}
            fixed = sorted(changed.keys() & FIXED_IN_SESSION)
            if fixed and live_session(session, machine_id):
                raise conflict(f"Machine {machine_id} has a live session; stop it before changing {', '.join(fixed)}")
            for field, value in changed.items():
                setattr(machine, field, value)
            machine.label = dhcp_label(machine.name)
            with session.no_autoflush:
                _refuse_duplicates(session, machine)
            if changed:
                machine.updated_at = now()
            _flush(session)
            audit.record(
                session,
                "machine_updated",
                f"machine {machine.name} updated",
                resource=("machine", machine.id),
                old=_told({field: old[field] for field in changed}),
                new=_told(changed),
                status_code=200,
            )
        return machine

    def delete(self, machine_id: int) -> None:
        """409 while a live session or target exists; afterwards the machine is hidden."""
        with self._db.write() as session:
            machine = require(session, machine_id)
            if reason := in_use(session, machine_id=machine_id):
                raise conflict(f"Machine {machine_id} is in use: {reason}")
            machine.deleted_at = now()
            audit.record(
                session,
                "machine_deleted",
                f"machine {machine.name} deleted",
                resource=("machine", machine.id),
                status_code=200,
            )

    def _complete_bmc(self, machine: Machine, values: dict[str, Any]) -> None:
        """What a change of the BMC's data means for the rest of them; the password becomes what is stored of it."""
        url = values.get("bmc_url", machine.bmc_url)
        if url is None:
            _refuse_without_url(values)
            if machine.bmc_url is not None:
                values.update(NO_BMC)
            return
        moved = machine.bmc_url is not None and url != machine.bmc_url
        if moved and machine.bmc_password is not None and "bmc_password" not in values:
            # Else a password that nobody may read could be had by sending it to a server of one's own.
            raise invalid(
                "bmc_password", f"give it again with another bmc_url; machine {machine.id} keeps it for its own"
            )
        if values.get("bmc_password") is not None:
            same = machine.bmc_password is not None and self._opens_to(machine.bmc_password, values["bmc_password"])
            values["bmc_password"] = machine.bmc_password if same else self._box.seal(values["bmc_password"])

    def _opens_to(self, sealed: str, password: str) -> bool:
        try:
            return self._box.open(sealed) == password
        except ValueError:  # sealed with another key
            return False

    def _check_address(self, address: str | None) -> None:
        if address is None:
            return
        if address == self._settings.portal_ip:
            raise invalid("ip_address", "is the portal's own address", address)
        network = self._settings.segment
        if ipaddress.IPv4Address(address) in (network.network_address, network.broadcast_address):
            raise invalid("ip_address", f"is the network or broadcast address of {network}", address)


def require(session: Session, machine_id: int) -> Machine:
    machine = session.get(Machine, machine_id) if 0 < machine_id < 2**31 else None
    if machine is None or machine.deleted_at is not None:
        raise not_found(f"Machine with ID {machine_id} not found")
    return machine


def _refuse_without_url(values: dict[str, Any]) -> None:
    for field in ("bmc_username", "bmc_password"):
        if values.get(field) is not None:
            raise invalid(field, "needs a bmc_url: without one there is nobody to tell it to")


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """Values as the audit log may hold them."""
    return {field: HIDDEN if field == "bmc_password" and value else value for field, value in values.items()}


def _refuse_duplicates(session: Session, machine: Machine) -> None:
    for column, what in (
        ("mac_address", "MAC address"),
        ("name", "name"),
        ("label", "DHCP label"),
        ("ip_address", "IP address"),
    ):
        value: Any = getattr(machine, column)
        if value is None:
            continue
        query = select(Machine.id).where(Machine.deleted_at.is_(None), getattr(Machine, column) == value)
        if machine.id is not None:
            query = query.where(Machine.id != machine.id)
        if (other := session.scalar(query)) is not None:
            raise conflict(f"{what} {value} belongs to machine {other}")


def _flush(session: Session) -> None:
    """With PostgreSQL another process can win between the check and here."""
    try:
        session.flush()
    except IntegrityError as error:
        raise ServiceError(409, "conflict_error", "another machine has this name, label, MAC or IP address") from error
