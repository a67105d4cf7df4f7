"""What captures one display: a program of its own on the node, which outlives the agent and the service."""
