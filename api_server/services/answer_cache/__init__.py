"""Answers that are given again: for identical deterministic requests of one app that ask for it."""
