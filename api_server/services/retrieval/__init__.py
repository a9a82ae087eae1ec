"""Vector stores: files become chunks with vectors, which are searched."""
