# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What the modules of the desktops service take."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description: Where the desktops service is, as C(https://HOST:8443).
    type: str
    required: true
  token:
    description: An access token, of C(POST /api/v1/auth/token) or of C(labyard-desktops token issue) on its host.
    type: str
    required: true
  validate_certs:
    description: Whether to check the certificate of an https address.
    type: bool
    default: true
"""
