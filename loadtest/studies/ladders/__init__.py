"""Study of the policy that serves against the best fixed operating point, over many ladders."""
