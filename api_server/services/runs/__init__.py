"""Runs of assistants: work on the durable queue, and streams that are kept (docs/runs.md)."""
