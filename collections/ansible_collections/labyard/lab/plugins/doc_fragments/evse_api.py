# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""What all evse_* modules take."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description: Where the charger gateway is, as C(http://HOST:PORT).
    type: str
    required: true
  username:
    description: Its user (C(www_username)). A group has one user and one password.
    type: str
    default: openevseadmin
  password:
    description: That user's password (C(www_password)). Empty for a gateway that wants none.
    type: str
    default: ""
  timeout:
    description: >-
      How many seconds to wait for peers: until those that are wanted are online, and until those that were removed are
      free. With 0 nothing is waited for.
    type: int
    default: 60
  validate_certs:
    description: Whether to check the certificate of an https address.
    type: bool
    default: true
"""
