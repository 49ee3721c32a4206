"""What tells how accurate the exits of a detector with some pyramid are, each in its own way."""
