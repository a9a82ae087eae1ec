"""Who sends a request, and what they may do: apps in memory, keys, tokens of end users."""
