"""A charger's controller with a car at it: RAPI over TCP or a PTY, and an HTTP API that plays the car."""
