"""Jobs: accepted now, done later, in a fair order, each exactly once."""
