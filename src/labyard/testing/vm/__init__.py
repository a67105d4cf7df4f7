"""The fixture `vm`: tests inside a real Linux kernel. docs/VMTEST_GUIDE.md is its guide.

`plugin` has the fixtures, `machine` what they give, `session` where that comes from, `guest` what runs inside,
`image` how the image is built.
"""

from labyard.testing.vm.errors import VMCommandError, VMError, VMTimeout, VMUnavailable
from labyard.testing.vm.machine import VM, Process, Result

__all__ = ["VM", "Process", "Result", "VMCommandError", "VMError", "VMTimeout", "VMUnavailable"]
