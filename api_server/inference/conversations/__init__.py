"""Conversations with a local or a cloud model, which may call functions."""
