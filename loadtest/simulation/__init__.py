"""Simulation of executors and fleets in virtual time, and studies of policies by it."""
