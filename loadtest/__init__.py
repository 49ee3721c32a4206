"""Load generation, and what it says about a server."""
