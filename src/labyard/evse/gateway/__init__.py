"""The gateway of a charger: HTTP, WebSocket and claims on one side, the EVSE on a serial line on the other."""
