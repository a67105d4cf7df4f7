"""What would make a boot shorter: the setting of Labyard that removes a wait, or the honest word that none does."""

from __future__ import annotations

from dataclasses import dataclass

from labyard.waterfall.model import Cause, Kind, Span, Waterfall

# Below this a wait is nobody's concern.
WORTH_A_WORD = 0.25

_CURES: dict[Cause, tuple[bool, str]] = {
    Cause.ROUTER: (
        True,
        "iPXE asked for an IPv6 router and waited until it gave up. Have one answer on the segment: the role radvd "
        "(radvd_state: present, radvd_prefix: lab_prefix_v6); is it running? `systemctl start radvd` on the boot "
        "server.",
    ),
    Cause.PROXYDHCP: (
        True,
        "iPXE had its offer and waited for a ProxyDHCP server. Tell it that there is none: "
        "dhcp_ipxe_skip_proxydhcp: true (role dhcp) sends option 175 with no-pxedhcp.",
    ),
    Cause.OFFERS: (
        False,
        "The firmware's own PXE collects DHCP offers before it takes one. That is fixed in the firmware: no setting "
        "removes it; a machine with firmware: bios starts the iPXE in its card and does not have it.",
    ),
    Cause.DHCP_SILENT: (
        True,
        "Nobody answered the DHCP discover. If the server's log (dhcp_lease_log) has it late or not at all, the bridge "
        "port was still learning: forward_delay 0 and STP off, as the role vm_host sets them. If the log has it, the "
        "server did not want to answer: dhcp_interfaces and dhcp_subnets (role dhcp); `labyard status` shows whether "
        "it runs.",
    ),
    Cause.TFTP_SILENT: (
        True,
        "The TFTP server did not answer. Does it run, and listen on tftp_address (role tftp)? `labyard status`.",
    ),
    Cause.BANNER: (
        False,
        "iPXE waits for Ctrl-B for two seconds. That is compiled into the distribution's iPXE (BANNER_TIMEOUT); no "
        "setting removes it, only an iPXE of your own does.",
    ),
    Cause.MENU: (
        True,
        "iPXE showed its menu: there was no script for this machine, or its disk did not answer. Is it in "
        "lab_machines, and has `make lab` run since? `labyard status` shows whether the iSCSI target is well.",
    ),
    Cause.LOGIN: (
        True,
        "The iSCSI login failed and was tried again. Status 0x0201: iscsi_target_chap_user and _secret differ from "
        "ipxe_chap_user and _secret. No answer: does tgt run, on iscsi_target_portal? `labyard status`.",
    ),
    Cause.UNKNOWN: (
        False,
        "Nothing was on the wire and nothing on the console. `labyard console` shows what stands on it; a boot "
        "loader's prompt has a timeout in its own configuration.",
    ),
}


@dataclass(frozen=True)
class Advice:
    """What would shorten one span. `removable`: a setting takes it away."""

    span: Span
    removable: bool
    text: str


def advise(waterfall: Waterfall) -> list[Advice]:
    """Waits, longest first, then work that takes unusually long."""
    found = [
        Advice(span, *_CURES[span.cause])
        for span in waterfall.waits
        if span.cause is not None and span.seconds >= WORTH_A_WORD
    ]
    work = sorted((span for span in waterfall.spans if not span.is_wait), key=lambda span: -span.seconds)
    return found + [Advice(span, True, text) for span in work if (text := _slow(span))]


def _slow(span: Span) -> str:
    """Advice about work that takes long; empty for what is as quick as it gets."""
    if span.kind is Kind.TFTP and span.seconds > 1:
        return (
            f"TFTP moved {span.name.removeprefix('TFTP ')} with {(span.rate or 0) / 1e6:.1f} MB/s, one block at a "
            "time. Load large files by HTTP (role boot_http), or from the iSCSI disk."
        )
    if span.kind is Kind.KERNEL and span.seconds > 2:
        return (
            "The kernel takes long without KVM: vm_host_accel (role vm_host) where the host can, and "
            "boot_image_kernel_options and boot_image_compress (role boot_image)."
        )
    if span.kind is Kind.ISCSI and (span.size or 0) > 4e6 and (span.rate or 1e9) < 5e6:
        return (
            "The disk was read slowly. A smaller kernel and initramfs (boot_image_compress), or a boot server that "
            "does less else."
        )
    if span.kind is Kind.POWER and span.seconds > 2:
        return "The VM host was slow to start QEMU: it is busy, or several machines were switched on together."
    return ""


def headline(waterfall: Waterfall) -> str:
    """The longest wait and what removes it, in a sentence or three."""
    every = advise(waterfall)
    found = [advice for advice in every if advice.span.is_wait]
    work = next((advice for advice in every if not advice.span.is_wait), None)
    if found:
        first = found[0]
        said = f"Longest wait: {_figure(first.span, waterfall)}. {first.text}"
        if not first.removable and (other := next((advice for advice in found if advice.removable), None)):
            said += f" The longest that a setting removes: {_figure(other.span, waterfall)}. {other.text}"
    else:
        longest = max(waterfall.spans, key=lambda span: span.seconds, default=None)
        said = "Nothing waits." + (f" The longest step: {_figure(longest, waterfall)}." if longest else "")
    if work and (not found or work.span.seconds > found[0].span.seconds):
        said += f" Slow: {_figure(work.span, waterfall)}. {work.text}"
    return said


def _figure(span: Span, waterfall: Waterfall) -> str:
    return f"{span.name}, {span.seconds:.1f} s of {waterfall.total:.1f} s"
