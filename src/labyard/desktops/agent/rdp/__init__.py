"""RDP servers on this node: real xrdp, real Xorg, each pair in a mount namespace and a slice of its own."""
