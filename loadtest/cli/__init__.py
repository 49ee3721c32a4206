"""The load tests' commands of ``punctual``, one file each."""
