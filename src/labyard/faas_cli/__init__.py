"""`labyard faas …`, for people. The daemon's own `faas` is labyard.faas.cli, which needs nothing but Python."""
