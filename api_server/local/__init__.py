"""`make local`: brings up an engine and the gateway as child processes, and keeps them up."""
