# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What all vm_* modules take."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description: Where the VM manager is, as C(http://HOST:PORT).
    type: str
    required: true
  token:
    description: Its token. Empty for a service that wants none.
    type: str
    default: ""
  validate_certs:
    description: Whether to check the certificate of an https address.
    type: bool
    default: true
"""
