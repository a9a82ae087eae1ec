"""Pure ASGI, one behaviour per file."""
