"""Recorded remote-desktop sessions on a pool of nodes: sessions, RDP servers, nodes and pools, PoOT and payouts."""
