"""The compose files, and the rules that they keep."""
