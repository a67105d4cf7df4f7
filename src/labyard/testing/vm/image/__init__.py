"""The image that VMs boot: a kernel, an initramfs and a Debian root, made by `labyard vm build`."""

from labyard.testing.vm.image.manifest import Image, find_image

__all__ = ["Image", "find_image"]
