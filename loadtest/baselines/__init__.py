"""Published scheduling policies, as they would serve the same model on the same executor.

    fixed.py     one depth for all requests: Clockwork, Nexus, Clipper
    scaling.py   one depth for all requests, revised every second: Proteus
    slack.py     depth and batch by the slack of the most urgent request: SlackFit, MaxAcc,
                 MaxBatch, greedy
    alert.py     depth by expected accuracy: ALERT

    exits.py     what they share
    batching.py  how requests of one depth form batches: Clockwork, Nexus, Proteus

Each policy is as strong as its idea allows: it sees the predictions that the shipped policy sees,
sheds the requests that it cannot serve, batches only where that pays, and idles only where its idea
says so. A request that does not accept the policy's depth is served at the nearest depth that it
accepts.
"""
