"""Who sends a request, and what they may have: keys, addresses, and files that name them."""
