"""What tests of functions use in a VM, or on any machine that runs commands and takes files as a VM does."""
