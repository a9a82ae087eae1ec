"""The vector database of `make local` and of the tests: what the stack uses of Qdrant's REST API,
over the engine that Qdrant publishes for embedding into programs (`qdrant_edge`).

Run by `python -m api_server.vector_server FILE`, with that package in PYTHONPATH.
"""
