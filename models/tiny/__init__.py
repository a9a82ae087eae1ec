"""A tiny chat model that really answers, and the recipe that made it.

Owns the corpus, the tokenizer, training, export and evaluation; the server never imports it.
"""
