"""What the gateway costs, measured beside a direct connection and beside other gateways."""
