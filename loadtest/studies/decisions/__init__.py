"""Study of how long the policy that serves takes to decide, with many waiting."""
