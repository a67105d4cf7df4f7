# SPDX-FileCopyrightText: Labyard
# SPDX-License-Identifier: Apache-2.0
"""One small generated file: written whole and atomically, or taken away."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def converge(module: AnsibleModule, path: str, after: str) -> dict[str, object]:
    """Give the file this text, mode 0644, or remove it when the text is empty. Its folder is made when missing.

    Nothing is touched in check mode. Returns `changed` and `diff`, for exit_json.
    """
    before = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as content:
            before = content.read()
    changed = before != after
    if changed and not module.check_mode:
        if after:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            temporary = os.path.join(module.tmpdir, os.path.basename(path))
            with open(temporary, "w", encoding="utf-8") as content:
                content.write(after)
            os.chmod(temporary, 0o644)
            module.atomic_move(temporary, path)
        else:
            os.unlink(path)
    return {"changed": changed, "diff": {"before": before, "after": after, "before_header": path}}
