"""Images, with the real qemu-img and real files: what is refused, what is kept, and what is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import select

from labyard.core import access
from labyard.core.adapter import AdapterError
from labyard.core.app import ServiceInfo, create_app
from labyard.core.clock import now
from labyard.core.database import Base, Database
from labyard.core.models import AuditLog, Role, User
from labyard.netboot.adapters import qemu_img
from labyard.netboot.adapters.qemu_img import ImageRefused
from labyard.netboot.api.images import router
from labyard.netboot.models import Image, ImageStatus, ImageType, Machine, Target, TargetStatus
from labyard.netboot.service.images import Images, check_file, uploads
from labyard.netboot.settings import Settings
from labyard.testing.waiting import PATIENCE, wait_until

MIB = 1024**2
FORMATS = ["raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi"]


def disk(path: Path, image_format: str = "raw", size: int = 8 * MIB, *options: str, content: int = MIB) -> Path:
    """A disk image of this format with some bytes of its own."""
    raw = path.with_name(path.name + ".source")
    raw.write_bytes(os.urandom(content))
    os.truncate(raw, size)
    tool = qemu_img.tool_format(image_format)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", tool, *options, raw, path], check=True)
    raw.unlink()
    return path


class Service:
    """The routes of /images under a real uvicorn, with an administrator's token or a viewer's."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder / "images"
        self.settings = Settings(
            database_url=f"sqlite:///{folder}/netboot.db",
            images_dir=self.folder,
            allowed_formats=",".join(FORMATS),
            **settings,
        )
        self.database = Database(self.settings.database_url)
        Base.metadata.create_all(self.database.engine)
        with self.database.write() as session:
            if session.get(User, 1) is None:
                session.add(User(id=1, username="admin", password_hash="", role=Role.ADMIN))
        self.images = Images(self.database, self.settings)
        self.images.start()
        service = ServiceInfo("labyard-netboot", "netboot", "", "0", "labyard_netboot")
        auth: Any = _Tokens()
        limits = {"/api/v1/images/upload": 2**62}
        self.app = create_app(
            service, self.settings, self.database, auth, [router], rooted=("images",), body_limits=limits
        )
        self.app.state.netboot = SimpleNamespace(images=self.images)
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.server.started, "the service is up")
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.http = self.client("admin")

    def client(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/images", headers=headers, timeout=PATIENCE)

    def upload(self, file: Path, name: str, filename: str | None = None, **fields: str) -> httpx.Response:
        with file.open("rb") as content:
            return self.http.post(
                "/upload", data={"name": name, **fields}, files={"file": (filename or file.name, content)}
            )

    def settled(self, image_id: int) -> dict[str, Any]:
        """The image once the background work is done with it."""

        def done() -> dict[str, Any] | None:
            answer: dict[str, Any] = self.http.get(f"/{image_id}").json()
            return answer if answer["status"] in ("ready", "error") else None

        return wait_until(done, f"image {image_id} is worked up")

    def ready(self, file: Path, name: str, **fields: str) -> dict[str, Any]:
        answer = self.upload(file, name, **fields)
        assert answer.status_code == 201, answer.text
        image = self.settled(answer.json()["id"])
        assert image["status"] == "ready", image["error_message"]
        return image

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def audited(self) -> list[str]:
        with self.database.read() as session:
            return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))

    def use(self, image_id: int) -> None:
        with self.database.write() as session:
            machine = Machine(name="ws-1", label="ws-1", mac_address="52:54:00:00:00:01", created_by=1)
            session.add(machine)
            session.flush()
            session.add(
                Target(
                    target_id="machine-1-00000000",
                    iqn="iqn.2025-01.lab.labyard:target-machine-1-00000000",
                    machine_id=machine.id,
                    image_id=image_id,
                    image_path="",
                    image_format="raw",
                    overlay_path="",
                    initiator_iqn="",
                    lun_id=1,
                    chap_username="",
                    chap_secret="",
                    status=TargetStatus.ACTIVE,
                    created_by=1,
                )
            )

    def stop(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        self.images.close()
        self.database.close()


class _Tokens:
    """Stands for core.auth.Auth: the token is the role's name."""

    def verify(self, token: str) -> access.Principal:
        return access.Principal(id=1, username=token, role=Role(token), jti="")

    def denied(self, *_: object) -> None: ...

    def ensure_admin(self) -> None: ...


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "state")
    yield made
    made.stop()


class TestInspect:
    @pytest.mark.parametrize("image_format", FORMATS)
    def test_takes_each_format(self, tmp_path: Path, image_format: str) -> None:
        size = qemu_img.inspect(disk(tmp_path / "a", image_format), image_format)
        assert size >= 8 * MIB  # vpc rounds up

    @pytest.mark.parametrize("content", FORMATS)
    @pytest.mark.parametrize("claimed", FORMATS)
    def test_content_must_be_what_the_extension_says(self, tmp_path: Path, claimed: str, content: str) -> None:
        if claimed != content:
            with pytest.raises(ImageRefused, match=f"says it is {claimed}, but its content is {content}"):
                qemu_img.inspect(disk(tmp_path / "a", content), claimed)

    def test_fixed_vhd_is_not_raw(self, tmp_path: Path) -> None:
        file = disk(tmp_path / "a", "vhd", 8 * MIB, "-o", "subformat=fixed")
        assert qemu_img.inspect(file, "vhd") >= 8 * MIB
        with pytest.raises(ImageRefused, match="content is vhd"):
            qemu_img.inspect(file, "raw")

    def test_backing_file(self, tmp_path: Path) -> None:
        secret = disk(tmp_path / "host-disk")
        for options in (["-b", str(secret), "-F", "raw"], ["-u", "-b", "/etc/shadow", "-F", "raw"]):
            file = tmp_path / "a.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, file, "8M"], check=True)
            with pytest.raises(ImageRefused, match="leans on a backing file"):
                qemu_img.inspect(file, "qcow2")

    def test_external_data_file(self, tmp_path: Path) -> None:
        option = f"data_file={tmp_path / 'data.raw'},data_file_raw=on"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, tmp_path / "a", "8M"], check=True)
        with pytest.raises(ImageRefused, match="leans on an external data file"):
            qemu_img.inspect(tmp_path / "a", "qcow2")

    def test_vmdk_with_other_files(self, tmp_path: Path) -> None:
        for kind in ("monolithicFlat", "twoGbMaxExtentSparse"):
            file = tmp_path / "a.vmdk"
            create = ["qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", file, "8M"]
            subprocess.run(create, check=True)
            with pytest.raises(ImageRefused, match="vmdk descriptor, which names other files"):
                qemu_img.inspect(file, "vmdk")

    def test_vmdk_whose_embedded_descriptor_names_other_files(self, tmp_path: Path) -> None:
        file = disk(tmp_path / "a.vmdk", "vmdk")
        with file.open("r+b") as content:
            content.seek(12)
            content.write(struct.pack("<q", 0))
        with pytest.raises(ImageRefused, match="extents in other files"):
            qemu_img.inspect(file, "vmdk")

    def test_vmdk_with_a_parent(self, tmp_path: Path) -> None:
        parent, file = disk(tmp_path / "p.vmdk", "vmdk"), tmp_path / "a.vmdk"
        subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", file], check=True)
        with pytest.raises(ImageRefused, match="leans on a backing file"):
            qemu_img.inspect(file, "vmdk")

    def test_differencing_vhd(self, tmp_path: Path) -> None:
        file = disk(tmp_path / "a.vhd", "vhd")
        data = bytearray(file.read_bytes())
        for footer in (0, len(data) - 512):
            struct.pack_into(">I", data, footer + 60, 4)
        file.write_bytes(data)
        with pytest.raises(ImageRefused, match="leans on a parent disk"):
            qemu_img.inspect(file, "vhd")

    def test_encrypted(self, tmp_path: Path) -> None:
        file = disk(tmp_path / "a.qcow2", "qcow2")
        with file.open("r+b") as content:  # creating a LUKS image fails at times: it measures its own speed
            content.seek(32)
            content.write(struct.pack(">I", 1))
        with pytest.raises(ImageRefused, match="encrypted"):
            qemu_img.inspect(file, "qcow2")

    @pytest.mark.parametrize("image_format", ["qcow2", "vhdx", "vmdk", "vdi", "vhd"])
    @pytest.mark.parametrize("size", [1, 100, 512, 4096])
    def test_cut_off(self, tmp_path: Path, image_format: str, size: int) -> None:
        file = disk(tmp_path / "a", image_format)
        os.truncate(file, size)
        with pytest.raises(ImageRefused):
            qemu_img.inspect(file, image_format)

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(ImageRefused, match="empty"):
            qemu_img.inspect(tmp_path / "a", "raw")

    def test_a_large_virtual_disk_fits_the_limits(self, tmp_path: Path) -> None:
        for image_format in ("qcow2", "vhdx"):
            file = tmp_path / image_format
            subprocess.run(["qemu-img", "create", "-q", "-f", image_format, file, "2T"], check=True)
            assert qemu_img.inspect(file, image_format) == 2 * 1024**4


class TestUpload:
    @pytest.mark.parametrize("image_format", FORMATS)
    def test_becomes_ready(self, service: Service, tmp_path: Path, image_format: str) -> None:
        file = disk(tmp_path / f"disk.{image_format}", image_format)
        answer = service.upload(file, " Test image ", description=" a disk ", image_type="GAME")
        assert answer.status_code == 201
        assert answer.json()["status"] == "uploading"
        image = service.settled(answer.json()["id"])
        content = file.read_bytes()
        assert image["status"] == "ready" and image["error_message"] is None
        assert (image["name"], image["description"], image["image_type"]) == ("Test image", "a disk", "game")
        assert image["format"] == image_format and image["size_bytes"] == len(content)
        assert image["virtual_size_bytes"] >= 8 * MIB
        assert image["checksum_md5"] == hashlib.md5(content).hexdigest()
        assert image["checksum_sha256"] == hashlib.sha256(content).hexdigest()
        assert image["created_by_username"] == "admin" and image["created_at"].endswith("Z")
        assert Path(image["file_path"]).read_bytes() == content
        assert service.files() == {image["filename"]}
        status = service.http.get(f"/{image['id']}/conversion-status").json()
        assert status["processing_info"] == {"progress": 100} and status["image_id"] == image["id"]
        assert service.audited() == ["image_created"]

    @pytest.mark.parametrize(
        ("content", "extension", "reason"),
        [("qcow2", "raw", "content is qcow2"), ("raw", "vhdx", "content is raw"), ("vmdk", "qcow2", "content is vmdk")],
    )
    def test_lying_extension_ends_in_error(
        self, service: Service, tmp_path: Path, content: str, extension: str, reason: str
    ) -> None:
        answer = service.upload(disk(tmp_path / f"disk.{extension}", content), "liar")
        image = service.settled(answer.json()["id"])
        assert image["status"] == "error" and reason in image["error_message"]
        converted = service.http.post(f"/{image['id']}/convert", json={"target_format": "raw"})
        assert converted.status_code == 200  # and checks it again
        wait_until(lambda: "Conversion" in str(service.settled(image["id"])["error_message"]), "the failure is told")
        assert service.settled(image["id"])["status"] == "error"

    @pytest.mark.parametrize("filename", ["../../etc/cron.d/x.raw", "/etc/x.raw", "C:\\windows\\x.raw", "..\\x.raw"])
    def test_path_in_the_file_name_is_neutralised(self, service: Service, tmp_path: Path, filename: str) -> None:
        answer = service.upload(disk(tmp_path / "a.raw"), "pathy", filename=filename).json()
        image = service.settled(answer["id"])
        assert Path(image["file_path"]).parent == service.folder and "x" not in image["filename"].replace("hex", "")
        assert service.files() == {image["filename"]}

    @pytest.mark.parametrize("name", ["../x", "a/b", "a", "", "x" * 101, "-ab", "a$b", "pc } x", 'a"b', "a\nb", "ä-b"])
    def test_bad_name(self, service: Service, tmp_path: Path, name: str) -> None:
        answer = service.upload(disk(tmp_path / "a.raw"), name)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "name"]
        assert service.files() == set() and service.audited() == []

    @pytest.mark.parametrize("filename", ["a.exe", "a", "a.raw.gz", "raw", ".", "a" * 252 + ".raw"])
    def test_bad_extension(self, service: Service, tmp_path: Path, filename: str) -> None:
        answer = service.upload(disk(tmp_path / "a.raw"), "image", filename=filename)
        assert answer.status_code == 422, answer.text
        assert service.files() == set()

    def test_duplicate_name(self, service: Service, tmp_path: Path) -> None:
        image = service.ready(disk(tmp_path / "a.raw"), "one")
        answer = service.upload(tmp_path / "a.raw", "one")
        assert answer.status_code == 422 and "belongs to image 1" in answer.text
        assert service.files() == {image["filename"]}

    def test_name_after_the_file(self, service: Service, tmp_path: Path) -> None:
        content = disk(tmp_path / "a.raw").read_bytes()
        for name, status in (("late", 201), ("late", 422), ("../x", 422)):
            parts = [("file", ("a.raw", content)), ("name", (None, name))]
            assert service.http.post("/upload", files=parts).status_code == status
        assert len(service.files()) == 1

    @pytest.mark.parametrize(
        ("parts", "field"),
        [
            ([("name", (None, "image"))], "file"),
            ([("file", ("a.raw", b"x" * 512))], "name"),
            ([("name", (None, "image")), ("file", ("a.raw", b""))], "file"),
            ([("name", (None, "image")), ("file", (None, b"x"))], "file"),
            ([("name", (None, "image")), ("file", ("a.raw", b"x")), ("file", ("b.raw", b"x"))], "file"),
            ([("name", (None, "image")), ("image_type", (None, "x")), ("file", ("a.raw", b"x"))], "image_type"),
            ([("name", (None, "image")), ("description", (None, "x" * 501)), ("file", ("a.raw", b"x"))], "description"),
            ([("name", (None, "x" * 5000)), ("file", ("a.raw", b"x"))], "name"),
            ([("name", (None, b"\xff\xfe")), ("file", ("a.raw", b"x"))], "name"),
        ],
    )
    def test_bad_form(self, service: Service, parts: Any, field: str) -> None:
        answer = service.http.post("/upload", files=parts)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"] == ["body", field]
        assert service.files() == set()

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("application/json", b"{}"),
            ("multipart/form-data", b""),
            ("multipart/form-data; boundary=x", b"rubbish"),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.raw"\r\n\r\nab',
            ),
            (f"multipart/form-data; boundary={'x' * 1000}", b""),
        ],
    )
    def test_no_form(self, service: Service, content_type: str, body: bytes) -> None:
        answer = service.http.post("/upload", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 422, answer.text
        assert service.files() == set()

    def test_only_administrators_write(self, service: Service, tmp_path: Path) -> None:
        file = disk(tmp_path / "a.raw")
        for role, expected in (("viewer", 403), ("operator", 403), ("", 401)):
            with service.client(role) as client:
                if not role:
                    client.headers.pop("Authorization")
                upload = client.post("/upload", data={"name": "image"}, files={"file": ("a.raw", file.read_bytes())})
                assert upload.status_code == expected
                assert client.put("/1", json={}).status_code == expected
                assert client.delete("/1").status_code == expected
                assert client.post("/1/convert").status_code == expected
                assert client.post("/import", json={"name": "abc", "path": "/x"}).status_code == expected
                assert client.get("").status_code == (200 if role else 401)
        assert service.files() == set()


class TestPieces:
    def begin(self, service: Service, file: Path, **given: Any) -> httpx.Response:
        body = {"name": "one", "filename": file.name, "size_bytes": file.stat().st_size, **given}
        return service.http.post("/uploads", json=body)

    def test_goes_on_where_it_stopped(self, service: Service, tmp_path: Path) -> None:
        content = disk(tmp_path / "a.raw").read_bytes()
        image = self.begin(service, tmp_path / "a.raw", image_type="data").json()
        assert image["status"] == "uploading"

        def put(offset: int, end: int) -> httpx.Response:
            return service.http.put(f"/upload/{image['id']}", params={"offset": offset}, content=content[offset:end])

        assert put(0, 3 * MIB).json()["received"] == 3 * MIB
        status = service.http.get(f"/{image['id']}/conversion-status").json()
        assert (status["status"], status["processing_info"]) == ("uploading", {"progress": 37})

        def cut() -> Iterator[bytes]:
            yield content[3 * MIB : 5 * MIB]
            wait_until(lambda: Path(image["file_path"]).stat().st_size > 3 * MIB, "more than 3 MiB are there")
            raise RuntimeError("gone")

        with pytest.raises(RuntimeError, match="gone"):
            service.http.put(f"/upload/{image['id']}", params={"offset": 3 * MIB}, content=cut())
        here = wait_until(lambda: service.http.get(f"/upload/{image['id']}").json(), "the upload is told")["received"]
        assert 3 * MIB < here <= 5 * MIB

        def wrong() -> str:  # until the server has seen that the client is gone, a piece is on its way
            answer = put(0, MIB)
            assert answer.status_code == 409
            return answer.json()["detail"].partition("offset=")[2]

        offset = int(wait_until(wrong, "the server says how far it is"))
        assert put(offset, len(content) + 1).json()["received"] == len(content)
        done = service.settled(image["id"])
        assert (done["status"], done["checksum_sha256"]) == ("ready", hashlib.sha256(content).hexdigest())
        assert service.http.get(f"/upload/{image['id']}").status_code == 400
        assert service.files() == {done["filename"]}

    def test_refused(self, service: Service, tmp_path: Path) -> None:
        file = disk(tmp_path / "a.raw")
        for given in ({"filename": "a.exe"}, {"size_bytes": 0}, {"size_bytes": 2**60}, {"name": "../x"}):
            assert self.begin(service, file, **given).status_code == 422
        image = self.begin(service, file, size_bytes=10).json()
        assert self.begin(service, file).status_code == 422
        assert service.http.put(f"/upload/{image['id']}", params={"offset": 0}, content=b"x" * 11).status_code == 422
        assert service.http.put("/upload/99", params={"offset": 0}, content=b"x").status_code == 404
        assert service.http.delete(f"/{image['id']}").status_code == 200
        assert service.files() == set()

    def test_survives_a_restart_but_not_for_ever(self, service: Service, tmp_path: Path) -> None:
        image = self.begin(service, disk(tmp_path / "a.raw")).json()
        service.http.put(f"/upload/{image['id']}", params={"offset": 0}, content=bytes(MIB))
        service.stop()
        again = Service(service.folder.parent)
        try:
            assert again.http.get(f"/upload/{image['id']}").json()["received"] == MIB
            with again.database.write() as session:
                session.get_one(Image, image["id"]).updated_at = now() - timedelta(days=2)
            again.images._work.recover()
            assert again.settled(image["id"])["status"] == "error" and again.files() == set()
        finally:
            again.stop()
            service.images = again.images  # the fixture stops what is left


class TestTooBig:
    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[Service]:
        made = Service(tmp_path / "state", max_upload_size=2 * MIB)
        yield made
        made.stop()

    def test_by_content_length_before_it_travels(self, service: Service, tmp_path: Path) -> None:
        answer = service.upload(disk(tmp_path / "a.raw", size=64 * MIB), "big")
        assert answer.status_code == 422 and "larger than 2097152 bytes" in answer.text
        assert service.files() == set()

    def test_by_counted_bytes(self, service: Service) -> None:
        sent = 0

        def body() -> Iterator[bytes]:
            nonlocal sent
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.raw"\r\n\r\n'
            for _ in range(64):
                sent += 1
                yield bytes(MIB)

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = service.http.post("/upload", content=body(), headers=headers)
        assert answer.status_code == 422 and "larger than" in answer.text
        assert service.files() == set()

    def test_exactly_the_limit(self, service: Service, tmp_path: Path) -> None:
        assert service.ready(disk(tmp_path / "a.raw", size=2 * MIB), "fits")["size_bytes"] == 2 * MIB
        (tmp_path / "b.raw").write_bytes(bytes(2 * MIB + 1))
        assert service.upload(tmp_path / "b.raw", "one over").status_code == 422


class TestCutOff:
    def test_client_goes_away(self, service: Service) -> None:
        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nimage\r\n'
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.raw"\r\n\r\n'
            yield bytes(4 * MIB)
            wait_until(
                lambda: [name for name in service.files() if (service.folder / name).stat().st_size >= MIB],
                "the first MiB is there",
            )
            raise RuntimeError("gone")

        with pytest.raises(RuntimeError, match="gone"):
            service.http.post("/upload", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
        wait_until(lambda: not service.files(), "nothing is left")
        assert service.http.get("").json() == [] and service.audited() == []

    def test_client_stands_still(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
        given_up = threading.Event()
        close = uploads._Form.close

        def closed(form: Any) -> None:
            close(form)
            given_up.set()

        monkeypatch.setattr(uploads._Form, "close", closed)

        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.raw"\r\n\r\n' + bytes(2 * MIB)
            given_up.wait(PATIENCE)
            yield b"\r\n--x--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = service.http.post("/upload", content=body(), headers=headers)
        assert answer.status_code == 422 and "stood still" in answer.text
        assert service.files() == set()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
    def test_a_file_that_cannot_be_kept_leaves_no_image(
        self, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("labyard.netboot.service.images.safe_filename", lambda *_: "taken.raw")
        (service.folder / "taken.raw").mkdir()
        answer = service.upload(disk(tmp_path / "a.raw"), "one")
        assert (answer.status_code, answer.json()["error"]) == (500, "storage_error")
        assert service.http.get("").json() == [] and service.files() == {"taken.raw"}
        assert service.audited() == ["image_created", "image_deleted"]

    def test_disk_full(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        folder = state / "images"
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "labyard-test", folder], check=True)
        try:
            service = Service(state)
            known = service.upload(disk(tmp_path / "big.raw", size=16 * MIB), "big")
            assert known.status_code == 500 and known.json()["error"] == "storage_error"

            def body() -> Iterator[bytes]:  # no Content-Length: nobody knows before it is full
                yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.raw"\r\n\r\n'
                yield from (bytes(MIB) for _ in range(16))

            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            answer = service.http.post("/upload", content=body(), headers=headers)
            assert answer.status_code == 500 and answer.json()["error"] == "storage_error"
            assert "No space left" in answer.json()["detail"]
            assert service.files() == set()

            image = service.ready(disk(tmp_path / "a.qcow2", "qcow2", content=5 * MIB // 2), "fits")
            service.http.post(f"/{image['id']}/convert", json={"target_format": "vhdx"})
            failed = wait_until(
                lambda: (found := service.settled(image["id"]))["error_message"] and found, "the failure is told"
            )
            assert failed["status"] == "ready" and "No space left" in failed["error_message"]
            assert service.files() == {image["filename"]}
            check_file(service.images.get(image["id"]))
            service.stop()
        finally:
            subprocess.run(["umount", folder], check=True)


class TestChanges:
    def test_lists(self, service: Service, tmp_path: Path) -> None:
        for name in ("alpha", "beta_50", "gamma"):
            service.ready(disk(tmp_path / "a.raw"), name, description=f"of {name}", image_type="data")
        service.http.delete("/1")
        answer = service.http.get("")

        def names(**query: Any) -> list[str]:
            return [image["name"] for image in service.http.get("", params=query).json()]

        assert answer.headers["X-Total-Count"] == "2"
        assert names(limit=1) == ["gamma"] and names(skip=1) == ["beta_50"]
        assert names(status="DELETED") == ["alpha"]
        assert names(search="BETA") == ["beta_50"] and names(search="%") == []
        assert names(image_type="Data", status="ready") == ["gamma", "beta_50"] and names(image_type="game") == []
        for query in (
            {"limit": 0},
            {"limit": 1001},
            {"skip": -1},
            {"status": "x"},
            {"image_type": "x"},
            {"search": "\0"},
        ):
            assert service.http.get("", params=query).status_code == 422

    def test_update(self, service: Service, tmp_path: Path) -> None:
        service.ready(disk(tmp_path / "a.raw"), "one", description="first")
        service.ready(disk(tmp_path / "a.raw"), "two")

        def put(**body: Any) -> httpx.Response:
            return service.http.put("/1", json=body)

        assert put(image_type="TEMPLATE").json()["image_type"] == "template"
        assert put(name="uno").json()["description"] == "first"
        assert put(description=None).json()["description"] is None
        for body in ({"name": "two"}, {"name": None}, {"name": "../x"}, {"image_type": None}, {"image_type": "x"}):
            assert put(**body).status_code == 422
        assert service.http.get("/1").json()["name"] == "uno"
        assert service.audited()[2:] == ["image_updated"] * 3

    def test_unknown(self, service: Service) -> None:
        for image_id in (1, 0, -1, 2**31 - 1, 2**31, 2**64):
            for answer in (
                service.http.get(f"/{image_id}"),
                service.http.put(f"/{image_id}", json={"name": "abc"}),
                service.http.delete(f"/{image_id}"),
                service.http.post(f"/{image_id}/convert"),
                service.http.get(f"/{image_id}/conversion-status"),
            ):
                assert answer.status_code == 404
                assert answer.json()["detail"] == f"Image with ID {image_id} not found"
        assert service.http.get("/x").status_code == 422

    def test_delete(self, service: Service, tmp_path: Path) -> None:
        image = service.ready(disk(tmp_path / "a.raw"), "one")
        service.use(image["id"])
        refused = service.http.delete("/1")
        assert refused.status_code == 409 and service.files() == {image["filename"]}
        with service.database.write() as session:
            session.get_one(Target, 1).status = TargetStatus.INACTIVE
        assert service.http.delete("/1").status_code == 200
        assert service.files() == set()
        assert service.http.get("/1").status_code == service.http.delete("/1").status_code == 404
        assert service.ready(tmp_path / "a.raw", "one")["id"] == 2
        assert service.audited() == ["image_created", "image_deleted", "image_created"]

    def test_file_removed_by_hand(self, service: Service, tmp_path: Path) -> None:
        image = service.ready(disk(tmp_path / "a.raw"), "one")
        check_file(service.images.get(1))
        os.truncate(image["file_path"], MIB)
        with pytest.raises(AdapterError, match="not the one that was checked"):
            check_file(service.images.get(1))
        Path(image["file_path"]).unlink()
        assert service.http.get("/1").json()["status"] == "ready"
        with pytest.raises(AdapterError, match="is gone"):
            check_file(service.images.get(1))
        service.http.post("/1/convert", json={"target_format": "qcow2"})
        failed = wait_until(lambda: (found := service.settled(1))["error_message"] and found, "the failure is told")
        assert "gone" in failed["error_message"]
        assert service.http.delete("/1").status_code == 200


class TestConvert:
    @pytest.mark.parametrize("target", FORMATS)
    @pytest.mark.parametrize("source", ["raw", "vhdx"])
    def test_same_disk_in_another_format(self, service: Service, tmp_path: Path, source: str, target: str) -> None:
        image = service.ready(disk(tmp_path / f"a.{source}", source), "one")
        answer = service.http.post("/1/convert", json={"target_format": target.upper()})
        assert answer.json() == {"message": "Conversion triggered successfully", "image_id": 1}
        wait_until(lambda: "image_converted" in service.audited(), "it is converted")
        done = service.settled(1)
        assert (done["status"], done["format"], done["error_message"]) == ("ready", target, None)
        content = Path(done["file_path"]).read_bytes()
        assert done["filename"].endswith(f".{target}") and done["size_bytes"] == len(content)
        assert done["checksum_sha256"] == hashlib.sha256(content).hexdigest()
        assert done["virtual_size_bytes"] == image["virtual_size_bytes"]
        wait_until(
            lambda: service.files() == {done["filename"]}, lambda: f"only the new file is left of {service.files()}"
        )
        tools = [qemu_img.tool_format(source), qemu_img.tool_format(target)]
        compare = ["qemu-img", "compare", "-f", tools[0], "-F", tools[1], tmp_path / f"a.{source}", done["file_path"]]
        subprocess.run(compare, check=True)

    def test_refused(self, service: Service, tmp_path: Path) -> None:
        service.ready(disk(tmp_path / "a.raw"), "one")
        assert service.http.post("/1/convert", json={"target_format": "exe"}).status_code == 422
        with service.database.write() as session:
            session.get_one(Image, 1).status = ImageStatus.UPLOADING
            session.get_one(Image, 1).lease_until = now() + timedelta(minutes=1)
        answer = service.http.post("/1/convert")
        assert answer.status_code == 422 and answer.json()["detail"] == "Image must be in READY or ERROR status"
        assert service.http.delete("/1").status_code == 409
        with service.database.write() as session:
            session.get_one(Image, 1).status = ImageStatus.READY
        service.use(1)
        assert service.http.post("/1/convert").status_code == 409
        assert service.settled(1)["format"] == "raw"

    def test_ten_at_once_make_one(self, service: Service, tmp_path: Path) -> None:
        service.ready(disk(tmp_path / "a.raw"), "one")
        codes: list[int] = []

        def ask() -> None:
            with service.client("admin") as client:
                codes.append(client.post("/1/convert", json={"target_format": "qcow2"}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(service.audited()) >= 2, "it is converted")
        done = service.settled(1)
        assert done["format"] == "qcow2"
        wait_until(
            lambda: service.files() == {done["filename"]}, lambda: f"only the new file is left of {service.files()}"
        )
        wait_until(
            lambda: service.audited().count("image_converted") == codes.count(200), "each that was taken is done"
        )

    def test_progress_is_told(self, tmp_path: Path) -> None:
        told: list[int] = []
        file = disk(tmp_path / "a.raw", size=64 * MIB)
        qemu_img.convert(file, "raw", tmp_path / "b", "qcow2", told.append, lambda: False)
        assert told == sorted(told) and told[-1] == 100

    def test_output_is_sparse(self, service: Service, tmp_path: Path) -> None:
        service.ready(disk(tmp_path / "a.qcow2", "qcow2", 256 * MIB), "one")
        service.http.post("/1/convert")
        wait_until(lambda: "image_converted" in service.audited(), "it is converted")
        stat = Path(service.settled(1)["file_path"]).stat()
        assert stat.st_size == 256 * MIB and stat.st_blocks * 512 < 8 * MIB


class TestImport:
    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[Service]:
        (tmp_path / "shelf").mkdir()
        made = Service(tmp_path / "state", import_dirs=str(tmp_path / "shelf"))
        yield made
        made.stop()

    def test_where_it_lies(self, service: Service, tmp_path: Path) -> None:
        file = disk(tmp_path / "shelf" / "boot.raw")
        body = {"name": "boot", "path": str(file)}
        first = service.http.post("/import", json=body)
        assert first.status_code == 201
        image = service.settled(first.json()["id"])
        assert image["status"] == "ready" and image["file_path"] == str(file)
        again = service.http.post("/import", json=body)
        assert again.status_code == 200 and again.json()["id"] == image["id"]
        assert service.http.post("/import", json={**body, "name": "other"}).status_code == 422
        disk(file)
        assert service.http.post("/import", json=body).status_code == 201
        changed = service.settled(image["id"])
        assert changed["checksum_md5"] != image["checksum_md5"] and changed["id"] == image["id"]
        disk(file)
        service.use(image["id"])
        assert service.http.post("/import", json=body).status_code == 409
        with service.database.write() as session:
            session.get_one(Target, 1).status = TargetStatus.INACTIVE
        assert "stays" in service.http.delete(f"/{image['id']}").json()["message"]
        assert file.is_file() and service.http.post("/import", json=body).status_code == 201

    def test_conversion_leaves_the_original(self, service: Service, tmp_path: Path) -> None:
        file = disk(tmp_path / "shelf" / "boot.raw")
        service.settled(service.http.post("/import", json={"name": "boot", "path": str(file)}).json()["id"])
        service.http.post("/1/convert", json={"target_format": "qcow2"})
        wait_until(lambda: "image_converted" in service.audited(), "it is converted")
        done = service.settled(1)
        assert done["filename"] == "boot.qcow2" and service.files() == {"boot.qcow2"} and file.is_file()
        service.http.delete("/1")
        assert service.files() == set() and file.is_file()

    def test_only_from_the_allowed_folders(self, service: Service, tmp_path: Path) -> None:
        outside = disk(tmp_path / "secret.raw")
        shelf = tmp_path / "shelf"
        (shelf / "link.raw").symlink_to(outside)
        (shelf / "folder.raw").mkdir()
        os.mkfifo(shelf / "pipe.raw")
        paths = [outside, shelf / ".." / "secret.raw", shelf / "link.raw", shelf / "none.raw", shelf / "folder.raw"]
        for path in [*map(str, paths), str(shelf / "pipe.raw"), "shelf/a.raw", "/dev/null", "", "a\0b", "/etc/passwd"]:
            answer = service.http.post("/import", json={"name": "image", "path": path})
            assert answer.status_code == 422, path
        assert service.audited() == []


# Its conversions get as far as their partial output, and stay there until it is killed.
CHILD = """
import sys, time
from pathlib import Path
from labyard.netboot.service.images import work
sys.path.insert(0, sys.argv[2])
from test_images import Service
work.sync = lambda part: time.sleep(600)
service = Service(Path(sys.argv[1]))
print(service.port, flush=True)
time.sleep(600)
"""


class TestRestart:
    """What a `kill -9` leaves is taken over by the next start."""

    def begin(self, folder: Path) -> tuple[subprocess.Popen[str], httpx.Client]:
        command = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        port = int(child.stdout.readline())
        headers = {"Authorization": "Bearer admin"}
        return child, httpx.Client(base_url=f"http://127.0.0.1:{port}/images", headers=headers, timeout=PATIENCE)

    def kill(self, child: subprocess.Popen[str]) -> None:
        child.send_signal(signal.SIGKILL)
        child.wait()

    def test_conversion(self, tmp_path: Path) -> None:
        child, http = self.begin(tmp_path / "state")
        folder = tmp_path / "state" / "images"
        try:
            file = tmp_path / "a.raw"
            with file.open("wb") as content:
                for _ in range(128):
                    content.write(os.urandom(MIB))
            with file.open("rb") as content:
                http.post("/upload", data={"name": "one"}, files={"file": ("a.raw", content)})
            wait_until(lambda: http.get("/1").json()["status"] == "ready", "it is ready")
            http.post("/1/convert", json={"target_format": "qcow2"})
            wait_until(
                lambda: [part for part in folder.glob("*.part") if part.stat().st_size > MIB],
                "the conversion has written",
            )
        finally:
            self.kill(child)
        assert list(folder.glob("*.part"))
        service = Service(tmp_path / "state")
        try:
            wait_until(lambda: "image_converted" in service.audited(), "it is converted")
            done = service.settled(1)
            assert (done["status"], done["format"]) == ("ready", "qcow2")
            wait_until(
                lambda: service.files() == {done["filename"]}, lambda: f"only the new file is left of {service.files()}"
            )
            compare = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", file, done["file_path"]]
            subprocess.run(compare, check=True)
        finally:
            service.stop()

    def test_upload(self, tmp_path: Path) -> None:
        child, http = self.begin(tmp_path / "state")
        folder = tmp_path / "state" / "images"

        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.raw"\r\n\r\n' + bytes(2 * MIB)
            wait_until(
                lambda: [part for part in folder.glob(".upload-*") if part.stat().st_size >= MIB],
                "the first MiB is there",
            )
            uploads.remove_stale(folder)
            assert list(folder.glob(".upload-*")), "an upload under way is not stale"
            self.kill(child)

        with pytest.raises(httpx.HTTPError):
            http.post("/upload", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert list(folder.glob(".upload-*"))
        service = Service(tmp_path / "state")
        try:
            assert service.files() == set() and service.http.get("").json() == []
        finally:
            service.stop()

    def test_rows_of_the_dead(self, tmp_path: Path) -> None:
        """Rows as a crash at each point leaves them, and one that another process still works on."""
        service = Service(tmp_path / "state")
        image = service.ready(disk(tmp_path / "a.raw"), "one")
        service.stop()
        database = Database(service.settings.database_url)
        partial = service.folder / "two.qcow2"
        dead, alive = "elsewhere:1:2:ab", f"{os.uname().nodename[:60]}:1:nonsense:ab"
        with database.write() as session:
            base = session.get_one(Image, 1)
            base.status, base.lease_owner, base.lease_until = ImageStatus.PROCESSING, alive, now() + timedelta(hours=1)

            def row(name: str, **values: Any) -> None:
                given = {"file_path": f"/none/{name}", "format": "raw", "filename": name, "created_by": 1, **values}
                session.add(Image(name=name, image_type=ImageType.SYSTEM, **given))

            row("no file", status=ImageStatus.UPLOADING, lease_owner=dead, lease_until=now() - timedelta(seconds=1))
            row("elsewhere", status=ImageStatus.PROCESSING, lease_owner=dead, lease_until=now() + timedelta(hours=1))
            info = {"crashes": 2, "target_format": "qcow2", "was": "ready", "output": str(partial)}
            row("crasher", status=ImageStatus.CONVERTING, lease_owner=dead, lease_until=now(), processing_info=info)
            old = service.folder / "old.vhd"
            row("replaced", status=ImageStatus.READY, processing_info={"obsolete": str(old)})
        for name in (partial, partial.with_name("two.qcow2.part"), old):
            name.write_bytes(b"x")
        database.close()
        service = Service(tmp_path / "state")
        try:
            assert service.settled(1)["checksum_md5"] == image["checksum_md5"]
            assert "cut off" in service.settled(2)["error_message"]
            assert service.http.get("/3").json()["status"] == "processing"
            assert service.settled(4)["status"] == "ready" and "3 times" in service.settled(4)["error_message"]
            assert service.files() == {image["filename"]}
        finally:
            service.stop()

    def test_stop_ends_the_work_and_the_next_start_does_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow(verb: str, *rest: str, tool: Callable[..., list[str]] = qemu_img._qemu_img) -> list[str]:
            return tool(verb, *(["-r", "1M"] if verb == "convert" else []), *rest)

        service = Service(tmp_path / "state")
        file = tmp_path / "a.raw"
        with file.open("wb") as content:
            for _ in range(128):
                content.write(os.urandom(MIB))
        service.ready(file, "one")
        with monkeypatch.context() as patch:
            patch.setattr(qemu_img, "_qemu_img", slow)  # two minutes: it is not over before it is stopped
            service.http.post("/1/convert", json={"target_format": "qcow2"})
            wait_until(lambda: list(service.folder.glob("*.part")), "the conversion has begun")
            service.stop()
        assert service.audited() == ["image_created"]
        assert not list(service.folder.glob("*.part"))
        service = Service(tmp_path / "state")
        try:
            wait_until(lambda: "image_converted" in service.audited(), "it is converted")
            assert service.settled(1)["format"] == "qcow2"
        finally:
            service.stop()
