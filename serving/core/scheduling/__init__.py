"""The scheduler: the deadline policy, its plan, and what it spends slack and engine time on."""
