"""Files and uploads: contents in the object store, rows in PostgreSQL (docs/files.md)."""
