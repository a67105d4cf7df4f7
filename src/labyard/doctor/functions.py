"""What functions and the VMs of tests need: containers by runc, the VMs' image, and what users may do without root."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from labyard.doctor.model import Check, Finding, Problem, Settings, Status
from labyard.doctor.work import Work, last_line
from labyard.testing.vm.errors import VMUnavailable
from labyard.testing.vm.image import find_image
from labyard.testing.vm.image.manifest import DEFAULT_FOLDER

CONTAINER_SECONDS = 15
LIMITS = ("memory", "cpu", "pids")
OPEN_FILES = 4096  # the daemon of functions has a few for each of up to 64 requests and 245 functions


def probe_containers(work: Work, settings: Settings) -> Finding:
    """runc runs a container. The Ansible module does it, run as a program."""
    work.need("runc", "runc")
    module = settings.container_module
    if not module.is_file():
        raise Problem(
            f"the checkout lacks {module.relative_to(settings.checkout)}",
            "run the doctor in a complete checkout: git status shows what is missing",
        )
    arguments = {"runtime": "runc", "timeout": CONTAINER_SECONDS}
    done = work.run([sys.executable, str(module)], stdin=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    return judge_containers(done.stdout, done.stderr)


def judge_containers(output: str, errors: str) -> Finding:
    """Decides about what the module printed. A limit that cannot be enforced is a warning."""
    if "No module named 'ansible" in errors:
        raise Problem("Ansible is not installed yet", "`make lab` installs it", Status.LATER)
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {"works": False, "reason": last_line(errors, output), "missing": []}
    if not answer.get("works"):
        reason = answer.get("reason") or answer.get("msg") or "no answer"
        remedy = (
            "; ".join(answer.get("missing", [])) or "reinstall runc; where this is a container: see runc_host's README"
        )
        return Finding(f"runc cannot run a container: {reason}", Status.FAIL, remedy)
    found = f"runc ran a container, cgroup v{answer['cgroup']}"
    if missing := [name for name in LIMITS if name not in answer["limits"]]:
        remedy = (
            f"functions run, and this is not limited; mount these controllers or switch them on: {', '.join(missing)}"
        )
        return Finding(f"{found}; no limits of {', '.join(missing)}", Status.WARN, remedy)
    return Finding(f"{found}, with limits of {', '.join(LIMITS)}")


def check_test_vms(work: Work, settings: Settings) -> Finding:
    """QEMU's programs and the image that VMs of tests boot are there. That a guest boots the check `guest` shows."""
    work.need("qemu-system-x86_64", "qemu-system-x86")
    work.need("qemu-img", "qemu-utils")
    folder = settings.checkout / DEFAULT_FOLDER
    try:
        image = find_image(folder)
    except VMUnavailable as error:
        raise Problem(
            str(error).partition(":")[0], "tests with the fixture `vm` need it: make vm-image", Status.LATER
        ) from error
    return Finding(f"VMs of tests boot {image.kernel} of {DEFAULT_FOLDER}")


def check_rights(_work: Work, _settings: Settings) -> Finding:
    """What a user may do without root, and how many files a daemon may open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge_rights(
        {
            name: _number(Path("/proc/sys") / name)
            for name in (
                "user/max_user_namespaces",
                "kernel/unprivileged_userns_clone",
                "kernel/apparmor_restrict_unprivileged_userns",
            )
        },
        most,
    )


def judge_rights(values: dict[str, int | None], open_files: int) -> Finding:
    """Decides about settings of the kernel (None: this one has no such setting) and the most open files."""
    endless = open_files == resource.RLIM_INFINITY
    found = f"open files: {'no limit' if endless else open_files}"
    if not endless and open_files < OPEN_FILES:
        remedy = f"functions need {OPEN_FILES}: raise the hard limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)"
        return Finding(found, Status.WARN, remedy)
    closed = {
        "user/max_user_namespaces": values["user/max_user_namespaces"] == 0,
        "kernel/unprivileged_userns_clone": values["kernel/unprivileged_userns_clone"] == 0,
        "kernel/apparmor_restrict_unprivileged_userns": values["kernel/apparmor_restrict_unprivileged_userns"] == 1,
    }
    for name, is_closed in closed.items():
        if is_closed:
            return Finding(
                f"{found}; users may not make namespaces ({name.replace('/', '.')})",
                Status.WARN,
                "only `labyard vm build` by a user needs them: run that as root, or allow them with sysctl",
            )
    return Finding(f"{found}; users may make namespaces")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except OSError:
        return None


FUNCTION_CHECKS: tuple[Check, ...] = (
    Check("containers", probe_containers, 25.0, needs_root=True),
    Check("test VMs", check_test_vms),
    Check("rights", check_rights),
)
