"""For tests of functions: image archives in all their shapes, and one of a handler that runs."""
