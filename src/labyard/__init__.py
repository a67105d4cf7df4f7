"""Labyard: infrastructure labs out of real daemons."""
