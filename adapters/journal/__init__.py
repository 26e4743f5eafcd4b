"""Usage rows on their way from a request to the ledger."""
