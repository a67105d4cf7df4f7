"""Diskless-boot sessions: machine + image -> iSCSI disk, iPXE script, DHCP reservation; and back."""
