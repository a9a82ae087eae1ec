"""Conversations of the Entities guide: one message in, its answer out, over stored threads."""
