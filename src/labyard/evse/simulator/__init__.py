"""`labyard-evse-sim`: a group over a day in seconds, with the gateway's own classes and no network: contract 8.4."""
