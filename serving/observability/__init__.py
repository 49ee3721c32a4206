"""What the server tells of itself: metrics, traces, and a log of decisions."""
