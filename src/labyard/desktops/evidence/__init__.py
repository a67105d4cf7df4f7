"""What proves a recording: objects, hashes, the ledger, and the check of it all. Knows no database, no service."""
