"""The emulator over HTTP: contract 3."""
