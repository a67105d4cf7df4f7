"""One file per real daemon; the only code of the netboot service that touches the world."""
