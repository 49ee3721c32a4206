"""Load generation for Punctual and its peers, simulation of its policies, and studies of both."""
