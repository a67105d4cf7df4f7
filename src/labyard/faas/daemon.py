"""The daemon's life: start, sweep, serve, drain, stop (contract section 11)."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time

from labyard.faas.adapters.cgroups import find_cgroups
from labyard.faas.adapters.images import Images
from labyard.faas.adapters.loopback import Loopback
from labyard.faas.adapters.runtime import find_runtime
from labyard.faas.api import Api
from labyard.faas.audit import Audit
from labyard.faas.children import become_subreaper
from labyard.faas.container import Place
from labyard.faas.errors import FaasError
from labyard.faas.history import History
from labyard.faas.log import log
from labyard.faas.observer import Observer
from labyard.faas.registry import Registry
from labyard.faas.service import Service
from labyard.faas.settings import Settings
from labyard.faas.sweep import remove_path, sweep

TICK = 0.01  # s between two looks whether the last container is gone
# Looks that killed containers have before the addresses go: 3 s in all with a drain of 2 s. Not seconds: when the whole
# daemon stood still, nobody has had that time, and a client whose address is gone is never told.
ENDING = 70
REMAINING = 5.0  # s until those are given up that do not end; the next start's sweep finds them


def run(settings: Settings, sockets: list[socket.socket], signals: socket.socket) -> int:
    """Serve until one of the signals that come out of the socket, a byte each; the exit code."""
    try:
        service = _start(settings)
    except (FaasError, OSError) as error:
        print(f"ERROR: {error}", flush=True)
        return 1
    observer = Observer(service)
    observer.start()
    api = Api(service, observer, Audit(settings.audit), sockets, settings.token())
    api.start()
    log("server", "FaaS server ready")
    _notify("READY=1")
    while (number := signals.recv(1)[0]) == signal.SIGHUP:
        try:
            service.reload()
        except (FaasError, ValueError, OSError) as error:
            log("init", f"The registry could not be read again: {error}")
    log("shutdown", f"{signal.Signals(number).name}: stopping")
    _notify("STOPPING=1")
    api.stop()
    observer.stop()
    _stop(service, signals)
    log("shutdown", "Stopped")
    return 0


def _start(settings: Settings) -> Service:
    become_subreaper()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for folder in (settings.bundles, settings.warm, settings.requests):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    images = Images(settings)
    images.prepare()
    registry = Registry(settings.registry, settings.limits)
    registry.load()
    if not settings.registry.exists():
        registry.save()
    runtime = find_runtime(settings.runtime, settings.runtime_root, settings.run, find_cgroups())
    cgroups = runtime.cgroups
    log("init", f"Runtime {runtime.program}, cgroup v{cgroups.version}")
    if cgroups.missing:
        log("init", f"Not enforced on this host: {', '.join(cgroups.missing)}")
    if settings.api_token_file is None and settings.api_bind != ("127.0.0.1",):
        log("init", f"WARNING: the API listens on {', '.join(settings.api_bind)} without a token")
    place = Place(settings, runtime, cgroups)
    loopback = Loopback(settings.device, settings.label)
    sweep(place, registry, images, loopback)
    service = Service(place, registry, images, loopback, History(settings.requests))
    functions = registry.all().values()
    service.add_addresses(functions)
    service.history.start()
    service.dispatcher.start()
    service.pool.start()
    for function in functions:
        service.install(function)
    return service


def _stop(service: Service, signals: socket.socket) -> None:
    drained = time.monotonic() + service.settings.drain_timeout
    service.dispatcher.stop()
    service.pool.stop()
    service.server.stop(drained)
    looks = ENDING
    while service.server.containers and looks:
        if time.monotonic() >= drained:
            looks -= 1
        signals.settimeout(TICK)
        try:
            signals.recv(1)
        except TimeoutError:
            continue
        log("shutdown", "Second signal: not waiting for requests")
        drained = min(drained, time.monotonic())
        service.server.stop(drained)
    for ip in service.close():
        log("shutdown", f"Removed {ip} from loopback interface")
    given_up = time.monotonic() + REMAINING
    while service.server.containers and time.monotonic() < given_up:
        time.sleep(TICK)
    for path in service.settings.scratch.iterdir():
        remove_path(path)  # of deploys that were under way
    service.lingering.close()
    service.place.cgroups.close()
    service.history.close()


def _notify(state: str) -> None:
    """Tell systemd, where it asks for it (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            try:
                link.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
            except OSError as error:
                log("init", f"cannot tell systemd: {error.strerror}")
