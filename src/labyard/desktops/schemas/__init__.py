"""Requests and answers, one file per kind of thing."""
