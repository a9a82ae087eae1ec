"""Logs and figures about requests. Used by every room, uses none."""
