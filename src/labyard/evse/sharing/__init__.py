"""Load sharing in a group of chargers: contract 5.5 to 7. Currents are in A, times in seconds of evse/clock.py."""
