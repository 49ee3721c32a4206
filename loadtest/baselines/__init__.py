"""Published scheduling policies, as they would serve the same model on the same executor.

    fixed.py     one operating point for all requests: Clockwork, Nexus, Clipper
    scaling.py   one point for all requests, revised every second: Proteus
    slack.py     point and batch by the slack of the most urgent request: SlackFit, MaxAcc,
                 MaxBatch, greedy
    alert.py     point by expected accuracy: ALERT
    stability.py point and batch by what the others wait for meanwhile: EdgeServing

    exits.py     what they share
    batching.py  how requests of one point form batches: Clockwork, Nexus, Proteus

Each policy is as strong as its idea allows: it sees the predictions that the shipped policy sees,
sheds the requests that it cannot serve, batches only where that pays, and idles only where its idea
says so. The exits of several input sizes are so many operating points to them, in the order of
sizes, then depths. A request that does not accept the policy's point is served at the nearest that
it accepts.

Depends on ``serving.core``. Begin with ``exits``, then ``slack``.
"""
