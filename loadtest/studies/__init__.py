"""Studies of servers on this machine and of simulated fleets, one folder each."""
