"""HTTP only: parse, authorise, call the service, shape the answer."""
