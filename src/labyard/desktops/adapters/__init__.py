"""One file for each real thing outside: nodes' agents, recorders, the ledger, Redis."""
