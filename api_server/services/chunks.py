"""One chunk of an engine's stream; `inference/chunks.py` reads it, for the library as well."""

from api_server.inference.chunks import decode

__all__ = ["decode"]
