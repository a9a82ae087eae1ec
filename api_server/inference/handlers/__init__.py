"""One handler for each way of reaching a model."""
