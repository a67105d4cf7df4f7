"""`python3 -m guest`: the VM's process 1."""

from .agent import main

main()
