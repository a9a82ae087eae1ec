"""The monitor for the terminal: it asks a gateway for /metrics and works the figures out itself."""
