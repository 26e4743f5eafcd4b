"""Projects, keys and the ledger in SQL, for SQLite and for PostgreSQL, and answers kept in a SQLite file."""
