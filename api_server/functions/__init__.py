"""A process that calls an operator's functions, for runs of assistants."""
