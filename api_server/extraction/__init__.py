"""Reads the text of files, in a process of its own: `python -m api_server.extraction`.

What is read may be hostile. Nothing here is imported by the gateway.
"""
