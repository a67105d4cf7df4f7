"""What clients and commands of all services share. It runs on the control machine: httpx, Rich, Typer, no database."""
