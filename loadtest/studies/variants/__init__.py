"""The gateway with different settings: what a request costs, and what load makes of that."""
