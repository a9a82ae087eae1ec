"""Several engines that serve one model: which of them gets a request, and which is left out."""
