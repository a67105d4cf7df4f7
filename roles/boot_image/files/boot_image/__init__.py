# Part of the role boot_image
"""The parts of build_boot_image.py. Standard library only: they run on the host that holds the image."""
