"""What a session or target stands on: overlay, seed, target, script, reservation. Made from the database's rows alone,
so that start, stop, restart and the observer all do the same thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labyard.core.adapter import AdapterError
from labyard.core.errors import ServiceError
from labyard.core.secretbox import SecretBox
from labyard.netboot import names
from labyard.netboot.adapters.disks import OverlaySpec
from labyard.netboot.adapters.factory import Adapters
from labyard.netboot.adapters.ipxe import INITRD, KERNEL, KERNEL_OPTIONS, ScriptSpec, generate_machine_script, validate
from labyard.netboot.adapters.iscsi import Lun, TargetSpec
from labyard.netboot.adapters.seed import Seed, write_seed
from labyard.netboot.models import BootMethod, BootSession, Image, Machine, Target, TargetStatus, Transport
from labyard.netboot.settings import Settings

SEED_SUFFIX = ".seed.iso"
# The error when one of these cannot be made or removed.
STORAGE, ISCSI, SCRIPT, TFTP, DHCP = "storage_error", "iscsi_error", "script_error", "tftp_error", "dhcp_error"
POWER = "power_error"


class Provision:
    def __init__(self, settings: Settings, adapters: Adapters, box: SecretBox) -> None:
        self.settings = settings
        self.adapters = adapters
        self._box = box

    def new_target(
        self,
        machine: Machine,
        image: Image,
        suffix: str,
        user_id: int,
        lun_id: int = 0,
        description: str | None = None,
    ) -> Target:
        """A target's row, `pending`. Its names are checked before any tool sees them: ServiceError 400."""
        target_id = names.target_id(machine.id, suffix)
        target = Target(
            target_id=target_id,
            iqn=names.target_iqn(self.settings.iqn_prefix, machine.id, suffix),
            machine_id=machine.id,
            image_id=image.id,
            image_path=image.file_path,
            image_format=image.format,
            overlay_path=str(self.adapters.disks.overlay_path(target_id)),
            initiator_iqn=names.initiator_iqn(self.settings.iqn_prefix, machine.mac_address),
            lun_id=lun_id or self.adapters.iscsi.first_lun,
            chap_username=names.chap_user(suffix),
            chap_secret=self._box.seal(names.new_chap_secret()),
            status=TargetStatus.PENDING,
            description=description,
            created_by=user_id,
        )
        for iqn in (target.iqn, target.initiator_iqn):
            if problem := names.iqn_error(iqn):
                raise ServiceError(400, "session_error", f"IQN {iqn}: {problem}")
        return target

    def make_disk(self, target: Target) -> None:
        """The overlay, exported. AdapterError."""
        base = Path(target.image_path)
        if not base.is_file():
            raise AdapterError(f"the image's file {base} is gone")
        self.adapters.disks.apply(OverlaySpec(target.target_id, base, target.image_format))

    def remove_disk(self, target_id: str, keep: bool = False) -> None:
        self.adapters.disks.remove(target_id, keep)
        self.seed_path(target_id).unlink(missing_ok=True)

    def make_seed(self, target: Target, machine: Machine, boot: BootSession) -> None:
        """The NoCloud seed that tells the booted system who it is. OSError."""
        write_seed(
            self.seed_path(target.target_id),
            Seed(
                instance_id=boot.session_id,
                hostname=machine.hostname or machine.label,
                ssh_keys=tuple(boot.seed.get("ssh_keys", ())),
                user_data=boot.seed.get("user_data"),
                phone_home_url=f"{self.event_url(boot)}/boot_success",
            ),
        )

    def make_target(self, target: Target) -> None:
        self.adapters.iscsi.apply(self.target_spec(target))

    def remove_target(self, target: Target) -> None:
        self.adapters.iscsi.remove(target.iqn, target.chap_username)

    def target_spec(self, target: Target) -> TargetSpec:
        disk = Lun(target.lun_id, self.adapters.disks.export_path(target.target_id))
        seed = self.seed_path(target.target_id)
        luns = (disk, Lun(target.lun_id + 1, seed, readonly=True)) if seed.exists() else (disk,)
        return TargetSpec(
            iqn=target.iqn,
            initiator=target.initiator_iqn,
            chap_user=target.chap_username,
            chap_secret=self._box.open(target.chap_secret),
            luns=luns,
        )

    def can_open(self, target: Target) -> bool:
        """Whether the target's secret was sealed with the SECRET_KEY of now."""
        try:
            self._box.open(target.chap_secret)
        except ValueError:
            return False
        return True

    def script(self, machine: Machine, target: Target, boot: BootSession) -> str:
        """The machine's script, checked. ValueError says what is wrong with it."""
        text = generate_machine_script(
            ScriptSpec(
                machine_id=machine.id,
                machine_name=machine.name,
                session_id=boot.session_id,
                event_url=self.event_url(boot),
                initiator=target.initiator_iqn,
                chap_user=target.chap_username,
                chap_secret=self._box.open(target.chap_secret),
                portal_ip=self.settings.portal_ip,
                portal_port=self.settings.portal_port,
                lun=target.lun_id,
                iqn=target.iqn,
                method=boot.boot_method,
                transport=boot.transport,
                boot_files=self._boot_files(target, boot),
                kernel_options=self._kernel_options(target, boot),
            )
        )
        if errors := validate(text):
            raise ValueError("; ".join(f"line {error.line}: {error.message}" for error in errors))
        return text

    def event_url(self, boot: BootSession) -> str:
        return f"{self.script_url(boot)}/events"

    def script_url(self, boot: BootSession) -> str:
        return f"{self.settings.public_url}/api/v1/ipxe/script/{boot.boot_token}"

    def seed_path(self, target_id: str) -> Path:
        return self.settings.overlay_dir / f"{target_id}{SEED_SUFFIX}"

    def seeds(self) -> set[str]:
        """Target ids that have a seed file."""
        found = (path.name.removesuffix(SEED_SUFFIX) for path in self.settings.overlay_dir.glob(f"*{SEED_SUFFIX}"))
        return {name for name in found if names.TARGET_ID.fullmatch(name)}

    def missing_boot_files(self, image: Image, method: str) -> list[str]:
        """Files that a boot method needs and that are not in boot/."""
        if method == BootMethod.SANBOOT:
            return []
        folder = boot_folder(image.filename)
        return [
            f"boot/{folder}/{name}"
            for name in (KERNEL, INITRD)
            if not self.adapters.scripts.boot_file(f"{folder}/{name}")
        ]

    def _kernel_options(self, target: Target, boot: BootSession) -> str:
        """Where iPXE loads the kernel: the image's own options, and where its root is."""
        root = ROOT.get(BootMethod(boot.boot_method), "")
        folder = boot_folder(Path(target.image_path).name)
        own = self.adapters.scripts.read_boot_file(f"{folder}/{KERNEL_OPTIONS}")
        # A machine with its root in memory has no disk, so no seed to tell it whom to call.
        home = f"labyard.boot_success={self.event_url(boot)}/boot_success"
        return f"{own} {root} {home}".strip() if root else ""

    def _boot_files(self, target: Target, boot: BootSession) -> str:
        folder = boot_folder(Path(target.image_path).name)
        if boot.transport == Transport.HTTP:
            return f"{self.settings.public_url}/api/v1/ipxe/boot/{folder}"
        return f"tftp://{self.settings.portal_ip}/boot/{folder}"

    def iscsi_details(self, target: Target) -> dict[str, Any]:
        return {
            "target_iqn": target.iqn,
            "initiator_iqn": target.initiator_iqn,
            "portal_ip": self.settings.portal_ip,
            "portal_port": self.settings.portal_port,
            "lun_id": target.lun_id,
            "san_uri": names.san_uri(self.settings.portal_ip, self.settings.portal_port, target.lun_id, target.iqn),
            "chap_username": target.chap_username,
        }

    def script_file(self, machine: Machine) -> str:
        return names.script_filename(machine.mac_address)


ROOT = {BootMethod.ISCSI_ROOT: "labyard.root=disk", BootMethod.RAM_ROOT: "labyard.root=ram"}


def boot_folder(filename: str) -> str:
    """Where kernel and initrd of an image stand below boot/: the image file's name without its extension."""
    return Path(filename).stem
