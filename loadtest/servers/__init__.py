"""Servers that studies start for themselves: gateways, Triton, peers, Prometheus."""
