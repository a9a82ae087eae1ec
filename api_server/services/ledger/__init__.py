"""The ledger: one row for each request, kept on disk first and then in PostgreSQL."""
