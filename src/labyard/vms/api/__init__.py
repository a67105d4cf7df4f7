"""HTTP only: parse, call the service, shape the answer. No logic."""
