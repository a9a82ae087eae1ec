"""The report of a run: JSON with a schema, CSV, and one page with pictures, without network."""
