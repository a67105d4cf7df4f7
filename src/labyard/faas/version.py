"""The version, as `--version` tells it. `make faas-single` writes the hash of the sources into it."""

VERSION = "0.1.0"
