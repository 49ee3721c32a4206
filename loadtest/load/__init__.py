"""Load tests of a server over HTTP: clients in open and closed loops, outcomes and reports."""
