"""Assistants, threads and messages: what OpenAI's Assistants API keeps."""
