"""`python -m labyard.testing.vm`: `labyard vm` where Labyard is installed without what a lab needs."""

from labyard.testing.vm.cli import app

app(prog_name="labyard vm")
