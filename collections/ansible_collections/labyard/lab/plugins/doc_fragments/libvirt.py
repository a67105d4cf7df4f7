# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What all libvirt_* modules take."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
"""
