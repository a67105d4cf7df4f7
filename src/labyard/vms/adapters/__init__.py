"""One file per real daemon or tool; the only code that touches the world."""
