"""What runs inside the VM: its first program, and the agent that does what the host asks.

The guest has no Labyard: these files alone are copied into it, so they import each other and the standard library only.
"""
