"""The files that xrdp and sesman read, from what a server shall be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FALLBACK = "icewm"


@dataclass(frozen=True)
class Desktop:
    """`program` starts it; `process` is what runs as long as it does, as the kernel names it."""

    program: str
    process: str


# By the word that clients say.
DESKTOPS = {
    "xfce": Desktop("startxfce4", "xfce4-session"),
    "gnome": Desktop("gnome-session", "gnome-session-b"),  # the kernel cuts names at 15 characters
    "kde": Desktop("startplasma-x11", "startplasma-x11"),
    "lxde": Desktop("startlxde", "lxsession"),
    "icewm": Desktop("icewm-session", "icewm-session"),
}

# Without pam_systemd: it would move the desktop out of its server's slice. `nodelay`: a wrong password is told at once;
# who guesses meets MaxLoginRetry and a password of 256 bits.
PAM = """\
auth required pam_unix.so nodelay
account required pam_unix.so
password required pam_deny.so
session required pam_unix.so
"""


@dataclass(frozen=True)
class Server:
    """What the files are written from. `display` is the first number that sesman may take."""

    account: str
    port: int
    sesman_port: int
    display: int
    idle_timeout: int  # seconds
    configuration: Mapping[str, Any]

    def on(self, option: str, default: bool = False) -> bool:
        return bool(self.configuration.get(option, default))


def depth(configuration: Mapping[str, Any]) -> int:
    """The one that the X server runs with, and every client joins. xrdp has no 32 there: it is 24 with padding."""
    return 16 if configuration.get("color_depth", 24) == 16 else 24


def xrdp_ini(server: Server) -> str:
    bits = depth(server.configuration)
    return _ini(
        Globals={
            "ini_version": 1,
            "fork": "true",
            "port": server.port,
            "tcp_nodelay": "true",
            "tcp_keepalive": "true",
            "security_layer": "tls" if server.on("use_tls", True) else "rdp",
            "crypt_level": "high",
            "certificate": "/etc/xrdp/cert.pem",
            "key_file": "/etc/xrdp/key.pem",
            "ssl_protocols": "TLSv1.2, TLSv1.3",
            "autorun": "Xorg",
            "allow_channels": "true",
            "allow_multimon": "true",
            "bitmap_cache": "true",
            "bitmap_compression": "true",
            "bulk_compression": "true",
            "max_bpp": bits,
            "xserverbpp": bits,
            "new_cursors": "true",
            "use_fastpath": "both",
        },
        Logging={"LogFile": "/var/log/xrdp/xrdp.log", "LogLevel": "INFO", "EnableSyslog": "false"},
        Channels={
            "rdpdr": _word(server.on("drive_redirection") or server.on("printer_redirection")),
            "rdpsnd": _word(server.on("audio")),
            "drdynvc": "true",
            "cliprdr": _word(server.on("clipboard", True)),
            "rail": "false",
            "xrdpvr": "false",
            "tcutils": "false",
        },
        Xorg={
            "name": "Xorg",
            "lib": "libxup.so",
            "username": "ask",
            "password": "ask",
            "ip": "127.0.0.1",
            "port": -1,
            "code": 20,
        },
    )


def sesman_ini(server: Server) -> str:
    clipboard = "none" if server.on("clipboard", True) else "all"
    return _ini(
        Globals={
            "ListenAddress": "127.0.0.1",
            "ListenPort": server.sesman_port,
            "EnableUserWindowManager": "false",
            "DefaultWindowManager": "/etc/xrdp/startwm.sh",
            "ReconnectScript": "/etc/xrdp/reconnectwm.sh",
        },
        Security={
            "AllowRootLogin": "false",
            "MaxLoginRetry": 4,
            # Whoever else has an account on this machine has no business on this desktop.
            "TerminalServerUsers": server.account,
            "AlwaysGroupCheck": "true",
            "RestrictOutboundClipboard": clipboard,
            "RestrictInboundClipboard": clipboard,
        },
        Sessions={
            "X11DisplayOffset": server.display,
            "MaxSessions": 4,
            "KillDisconnected": "false",
            "IdleTimeLimit": server.idle_timeout,
            "Policy": "Default",
        },
        Logging={"LogFile": "/var/log/xrdp/sesman.log", "LogLevel": "INFO", "EnableSyslog": "false"},
        Xorg={
            "param": [
                "/usr/lib/xorg/Xorg", "-config", "xrdp/xorg.conf", "-noreset", "-nolisten", "tcp",
                "-logfile", ".xorgxrdp.%s.log",
            ]
        },
        Chansrv={"EnableFuseMount": _word(server.on("drive_redirection"))},
        ChansrvLogging={"LogLevel": "WARNING", "EnableSyslog": "false"},
        SessionVariables={"LANG": "C.UTF-8"},
    )  # fmt: skip


def start_script(desktop: Desktop) -> str:
    """`startwm.sh`: sesman runs it in the new desktop, as its account."""
    return f"""\
#!/bin/sh
cd "$HOME" || exit 1
unset DBUS_SESSION_BUS_ADDRESS
XDG_RUNTIME_DIR=$(mktemp -d) && export XDG_RUNTIME_DIR
command -v dbus-run-session >/dev/null && exec dbus-run-session -- {desktop.program}
exec {desktop.program}
"""


RECONNECT_SCRIPT = "#!/bin/sh\n"


def _word(value: bool) -> str:
    return "true" if value else "false"


def _ini(**sections: Mapping[str, Any]) -> str:
    lines = []
    for name, options in sections.items():
        lines.append(f"[{name}]")
        for option, value in options.items():
            for each in value if isinstance(value, list) else [value]:
                lines.append(f"{option}={each}")
        lines.append("")
    return "\n".join(lines)
