"""The agent of one node: what only root can do there, behind fixed verbs (contract section 2)."""
