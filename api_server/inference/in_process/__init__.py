"""Models that run in this process: the way to them, and what their files say of them."""
