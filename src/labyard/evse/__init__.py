"""Pairs of charger emulator and gateway that find each other and share a supply: contracts/evse.md."""
