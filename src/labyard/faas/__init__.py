"""Functions from container images: one address each, one container per request. Standard library only.

Contract: faas.md, Part A. It imports nothing else of Labyard, because the same modules also run as two lone files
(`make faas-single`).
"""
