"""The fixture `vm`: tests inside a real Linux kernel. docs/VMTEST_GUIDE.md is its guide.

`plugin` has the fixtures, `vm` and `machine` what they give, `session` where that comes from, `guest` what runs inside,
`image` how the image is built.
"""

from labyard.testing.vm.errors import VMCommandError, VMError, VMStalled, VMTimeout, VMUnavailable
from labyard.testing.vm.machine import Process, Result
from labyard.testing.vm.vm import VM

__all__ = ["VM", "Process", "Result", "VMCommandError", "VMError", "VMStalled", "VMTimeout", "VMUnavailable"]
