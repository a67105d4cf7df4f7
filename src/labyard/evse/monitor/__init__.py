"""`labyard-evse-monitor`: watches the emulators of a group, and says when its budget does not hold: contract 8.1."""
