# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What all netboot_* modules take."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description: Where the netboot service is, as C(http://HOST:PORT).
    type: str
    required: true
  username:
    description: Who to log in as. Machines and sessions need an operator, images an admin.
    type: str
    default: admin
  password:
    description:
      - The password.
      - The token of the login is kept, for its owner only, in C(~/.cache/labyard), because the service takes 20 logins
        in 5 minutes from one address.
    type: str
    required: true
  validate_certs:
    description: Whether to check the certificate of an https address.
    type: bool
    default: true
"""
