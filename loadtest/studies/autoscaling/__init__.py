"""Study of the signals that a fleet can be scaled by, in simulation."""
