"""The VM manager: templates, virtual machines, disks, leases, console, guest metadata and an observer, on libvirt."""
