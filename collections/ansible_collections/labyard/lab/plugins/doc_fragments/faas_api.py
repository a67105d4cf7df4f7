# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What modules of functions take."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description: Where the daemon is, as C(http://HOST:PORT).
    type: str
    required: true
  token:
    description: Its token. Empty for a daemon that wants none.
    type: str
    default: ""
  validate_certs:
    description: Whether to check the certificate of an https address.
    type: bool
    default: true
"""
