"""Targets: contract section 5.4. A disk without a session; a session makes its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labyard.core import audit
from labyard.core.adapter import AdapterError
from labyard.core.errors import ServiceError, conflict, not_found
from labyard.core.paging import Page, fetch
from labyard.core.steps import Step, StepFailed, call, run_steps
from labyard.netboot import names
from labyard.netboot.models import Image, ImageStatus, Machine, Target, TargetStatus
from labyard.netboot.schemas import TargetCreate
from labyard.netboot.service.lookups import current_target, live_session
from labyard.netboot.service.provision import ISCSI, STORAGE
from labyard.netboot.service.shared import Shared


class Targets:
    def __init__(self, shared: Shared) -> None:
        self._db = shared.database
        self._settings = shared.settings
        self._provision = shared.provision
        self._metrics = shared.metrics
        self._locks = shared.locks

    def create(self, given: TargetCreate, user_id: int) -> Target:
        """400 when machine or image cannot (decision D2); 500 with nothing left behind when a daemon cannot."""
        with self._locks.hold(given.machine_id):
            target = self._insert(given, user_id)
            timeout = self._settings.step_timeout_seconds
            steps = [
                Step(
                    "overlay",
                    lambda: self._provision.make_disk(target),
                    lambda: self._provision.remove_disk(target.target_id),
                    STORAGE,
                    timeout,
                ),
                Step(
                    "target",
                    lambda: self._provision.make_target(target),
                    lambda: self._provision.remove_target(target),
                    ISCSI,
                    timeout,
                ),
            ]
            try:
                run_steps(steps, lambda name: None, self._metrics.step)
            except StepFailed as failure:
                self._forget(target, failure)
                raise ServiceError(500, failure.step.code, f"Target creation failed: {failure}") from failure
            return self._set_status(
                target,
                TargetStatus.ACTIVE,
                action="target_created",
                message=f"target {target.target_id} created",
                new={"machine_id": target.machine_id, "image_id": target.image_id, "iqn": target.iqn},
                status_code=201,
            )

    def _insert(self, given: TargetCreate, user_id: int) -> Target:
        def refuse(text: str) -> ServiceError:
            return ServiceError(400, "target_error", text)

        try:
            with self._db.write() as session:
                machine = session.get(Machine, given.machine_id) if 0 < given.machine_id < 2**31 else None
                if machine is None or machine.deleted_at is not None:
                    raise refuse(f"Machine with ID {given.machine_id} not found")
                image = session.get(Image, given.image_id) if 0 < given.image_id < 2**31 else None
                if image is None or image.status == ImageStatus.DELETED:
                    raise refuse(f"Image with ID {given.image_id} not found")
                if image.status != ImageStatus.READY:
                    raise refuse(f"Image must be in READY status. Current status: {image.status}")
                if current_target(session, machine.id) or live_session(session, machine.id):
                    raise refuse(f"Target already exists for machine {machine.id}")
                target = self._provision.new_target(
                    machine, image, names.new_suffix(), user_id, given.lun_id, given.description
                )
                session.add(target)
                session.flush()
                return target
        except IntegrityError as error:
            raise refuse(f"Target already exists for machine {given.machine_id}") from error

    def _forget(self, target: Target, failure: StepFailed) -> None:
        with self._db.write() as session:
            row = session.get_one(Target, target.id)
            if failure.left_over:
                row.status = TargetStatus.ERROR  # the observer removes what is left
            else:
                session.delete(row)

    def get(self, target_id: int) -> Target:
        with self._db.read() as session:
            return require(session, target_id)

    def of_machine(self, machine_id: int) -> Target:
        with self._db.read() as session:
            if 0 < machine_id < 2**31 and (target := current_target(session, machine_id)):
                return target
        raise not_found(f"No target found for machine {machine_id}")

    def list(self, page: Page, **equal: Any) -> tuple[list[Target], int]:
        query = select(Target)
        for column, value in equal.items():
            if value is not None:
                query = query.where(getattr(Target, column) == value)
        with self._db.read() as session:
            return fetch(session, query.order_by(Target.id.desc()), page)

    def delete(self, target_id: int) -> None:
        """409 while a live session uses it, and then nothing is touched. One that is inactive is gone already."""
        target = self.get(target_id)
        with self._locks.hold(target.machine_id):
            with self._db.read() as session:
                if require(session, target_id).status == TargetStatus.INACTIVE:
                    return
                self._refuse_in_session(session, target)
            failed = self._remove(target)
            with self._db.write() as session:
                row = require(session, target_id)
                row.status = TargetStatus.ERROR if failed else TargetStatus.INACTIVE
                if not failed:
                    audit.record(
                        session,
                        "target_deleted",
                        f"target {row.target_id} deleted",
                        resource=("target", row.id),
                        status_code=204,
                    )
            if failed:
                raise ServiceError(500, failed[0], f"Target deletion failed: {failed[1]}")

    def _remove(self, target: Target) -> tuple[str, str] | None:
        """All steps run; the first failure is returned as (code, reason)."""
        failed = None
        steps: list[tuple[str, Callable[[], object]]] = [
            (ISCSI, lambda: self._provision.remove_target(target)),
            (STORAGE, lambda: self._provision.remove_disk(target.target_id)),
        ]
        for code, run in steps:
            try:
                call(run, self._settings.step_timeout_seconds)
            except Exception as error:
                failed = failed or (code, str(error) or type(error).__name__)
        return failed

    def restart(self, target_id: int) -> Target:
        """Rebuild the iSCSI side: same IQN, overlay and secret. Clients are dropped and may log in again."""
        target = self.get(target_id)
        with self._locks.hold(target.machine_id):
            if self.get(target_id).status == TargetStatus.INACTIVE:
                raise ServiceError(400, "target_error", f"Target {target_id} is inactive")
            try:
                for run in (
                    lambda: self._provision.remove_target(target),
                    lambda: self._provision.make_disk(target),
                    lambda: self._provision.make_target(target),
                ):
                    call(run, self._settings.step_timeout_seconds)
            except Exception as error:
                self._set_status(target, TargetStatus.ERROR)
                reason = str(error) or type(error).__name__
                raise ServiceError(500, ISCSI, f"Failed to restart target: {reason}") from error
            return self._set_status(
                target,
                TargetStatus.ACTIVE,
                action="target_updated",
                message=f"target {target.target_id} restarted",
                status_code=200,
            )

    def daemon_status(self, target_id: int) -> dict[str, Any]:
        """What the iSCSI daemon has: asked of it now."""
        target = self.get(target_id)
        try:
            seen = call(self._provision.adapters.iscsi.observed, self._settings.step_timeout_seconds).get(target.iqn)
        except (AdapterError, TimeoutError) as error:
            raise ServiceError(500, ISCSI, f"Failed to get target status: {error}") from error
        portal = {"ip": self._settings.portal_ip, "port": self._settings.portal_port}
        answer: dict[str, Any] = {
            "target_id": target.target_id,
            "iqn": target.iqn,
            "status": "not_found",
            "luns": [],
            "acls": [],
            "portals": [],
            "connections": [],
            "error": None,
        }
        if seen is None:
            return answer
        return answer | {
            "status": "active" if seen.backing_ok else "error",
            "luns": [{"lun_id": lun.number, "path": str(lun.path), "readonly": lun.readonly} for lun in seen.luns],
            "acls": list(seen.initiators),
            "portals": [portal],
            "connections": [{"initiator": c.initiator, "address": c.address} for c in seen.connections],
            "error": None if seen.backing_ok else "the disk behind the target is gone; restart the target",
        }

    def _refuse_in_session(self, session: Session, target: Target) -> None:
        live = live_session(session, target.machine_id)
        if live and live.target_id == target.id:
            raise conflict(f"Target {target.id} is used by session {live.id}; stop the session")

    def _set_status(self, target: Target, status: TargetStatus, **audited: Any) -> Target:
        with self._db.write() as session:
            row = require(session, target.id)
            row.status = status
            if audited:
                audit.record(session, resource=("target", row.id), **audited)
            session.flush()
            session.refresh(row)
            return row


def require(session: Session, target_id: int) -> Target:
    target = session.get(Target, target_id) if 0 < target_id < 2**31 else None
    if target is None:
        raise not_found(f"Target with ID {target_id} not found")
    return target
