"""RAPI over a pseudo-terminal, with a link to it at a path of one's choice: contract 2.5."""

from __future__ import annotations

import asyncio
import ctypes
import os
import termios
import tty
from collections.abc import Callable
from copy import copy
from pathlib import Path

import structlog

from labyard.evse.emulator.line import End, Line

log = structlog.get_logger(__name__)

_IN_OPEN = 0x20
_PIECE = 512  # bytes that are read at once; then it is the others' turn


class Pty:
    """The master stays open, so that others may open and close the slave as they like. Each who opens it is greeted.
    While nobody has it open nothing is written: the next one would read what is long past. The kernel tells of opens
    by inotify, and of the last close by a hang-up of the master, if we do not keep the slave open ourselves."""

    def __init__(self, line: Line, path: Path, baudrate: int, greet: Callable[[End], None]) -> None:
        self._line = line
        self._path = path
        self._baudrate = baudrate
        self._greet = greet

    def open(self) -> bool:
        """Make the PTY and listen; whether the link leads to it. OSError: there are no PTYs left."""
        self._open()
        return self._make_link()

    def _open(self) -> None:
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        _make_raw(slave, self._baudrate)
        self.name = os.ttyname(slave)
        self._end = End(self._line, self.name, self)
        self._is_open = self._is_full = False
        self._watch = _watch_opens(self.name)
        self._slave: int | None = slave
        if self._watch is None:
            log.warning("this system does not say who opens a PTY: it is taken as open", pty=self.name)
            self._opened()
        else:
            os.close(slave)
            self._slave = None
            asyncio.get_running_loop().add_reader(self._watch, self._watched)
        log.info("RAPI is ready", pty=self.name)

    def close(self) -> None:
        """Users of the slave get an end of file; the link is removed when it is ours."""
        self._let_go()
        if _target(self._path) == self.name:
            self._path.unlink(missing_ok=True)

    def _let_go(self) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in (self._master, self._watch, self._slave):
            if descriptor is not None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        self._line.detach(self._end)

    async def keep_link(self, look_every: float, give_up_after: float) -> None:
        """Make the link again when it has vanished (times in s, real ones). Ends when that fails for too long, or when
        another has taken the path."""
        failing = 0.0
        while failing <= give_up_after:
            await asyncio.sleep(look_every)
            if _target(self._path) == self.name:
                failing = 0.0
            elif self._path.is_symlink():
                log.warning("another has taken the link", link=str(self._path), target=_target(self._path))
                return
            elif self._make_link():
                log.warning("the link had vanished; it is there again", link=str(self._path))
            else:
                failing += look_every
        log.error("given up: use the PTY itself", link=str(self._path), pty=self.name)

    def write(self, data: bytes) -> None:
        if not self._is_open:
            return
        try:
            os.write(self._master, data)
            self._is_full = False
        except OSError:
            if not self._is_full:
                log.warning("lines are lost: nobody reads", pty=self.name)
            self._is_full = True

    def hang_up(self) -> None:
        """Those who have it open get an end of file, and find a new one at the link."""
        old = copy(self)  # it knows the old descriptors
        self._open()
        if _target(self._path) == old.name:  # it may be another's by now
            self._make_link()
        old._let_go()

    def _make_link(self) -> bool:
        """A stale link is replaced, a real file never."""
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            if self._path.exists() and not self._path.is_symlink():
                log.warning("not a link, so left alone: use the PTY itself", path=str(self._path), pty=self.name)
                return False
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.name)
            fresh.replace(self._path)
        except OSError as error:
            log.error("cannot make the link: use the PTY itself", link=str(self._path), error=str(error), pty=self.name)
            return False
        return True

    def _watched(self) -> None:
        assert self._watch is not None
        try:
            os.read(self._watch, 4096)
        except BlockingIOError:
            return
        # Opens that follow each other closely are one event: one greeting will do for them.
        self._opened()

    def _opened(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._line.attach(self._end)
            asyncio.get_running_loop().add_reader(self._master, self._readable)
        self._greet(self._end)

    def _readable(self) -> None:
        try:
            data = os.read(self._master, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # the last one has closed it
            self._closed()
            return
        if self._watch is not None:
            self._watched()  # who has written has opened it before: greet first
        self._end.received(data)

    def _closed(self) -> None:
        self._is_open = False
        asyncio.get_running_loop().remove_reader(self._master)
        self._line.detach(self._end)
        termios.tcflush(self._master, termios.TCOFLUSH)  # what nobody has read


def _make_raw(descriptor: int, baudrate: int) -> None:
    """No echo, no lines, no signals, no output processing, no flow control."""
    tty.setraw(descriptor)
    iflag, oflag, cflag, lflag, _, _, characters = termios.tcgetattr(descriptor)
    iflag &= ~(termios.IXON | termios.IXOFF | termios.IXANY | termios.INLCR | termios.IGNCR | termios.ICRNL)
    cflag &= ~termios.CRTSCTS
    speed = getattr(termios, f"B{baudrate}")
    termios.tcsetattr(descriptor, termios.TCSANOW, [iflag, oflag, cflag, lflag, speed, speed, characters])


def _watch_opens(path: str) -> int | None:
    """A descriptor that is readable when others have opened a file (inotify). None: not on this system."""
    library = ctypes.CDLL(None)
    try:
        descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0 or library.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN) < 0:
            return None
    except AttributeError:
        return None
    return descriptor


def _target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None
