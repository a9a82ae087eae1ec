"""HTTP only: parse, call one service, shape the answer. One file per resource family."""
