"""The engine room: the only way to a model. Imports nothing of the web application."""
