"""Published scheduling policies, as they would serve the same model on the same executor.

    fixed.py     one depth for everybody: Clockwork, Nexus, Clipper
    scaling.py   one depth for everybody, revised every second: Proteus
    slack.py     depth and batch by the head's slack: SlackFit, MaxAcc, MaxBatch, greedy
    alert.py     depth by expected accuracy: ALERT

    exits.py     what they share
    batching.py  how those of one depth form batches: Clockwork, Nexus, Proteus

Each is as strong as its idea allows: they see the predictions that the shipped policy sees, shed
whom they cannot serve, batch only where it pays, and idle only where their idea says so. Whom a
policy's depth does not suit is served at the nearest depth that it accepts.
"""
