"""Load tests: requests as users send them, measured as users feel them."""
