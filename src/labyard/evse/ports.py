"""The ports of pair 0; pair N has N more: contract 1.1. What an inventory says comes before."""

GATEWAY_PORT = 8000
EMULATOR_PORT = 8080
RAPI_PORT = 8023
