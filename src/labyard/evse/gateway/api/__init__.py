"""HTTP only: parse, call the part that does it, shape the answer. One file per kind of thing."""
