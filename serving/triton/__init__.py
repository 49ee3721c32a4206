"""Messages and memory that the gateway and Triton share."""
