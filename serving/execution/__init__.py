"""Requests run on one device: executors, the engine they make, and who watches over it.

    supervisor        opens an engine, and puts another in its place if it hangs
    engine            runners, warmed up, each under an executor with the policy that serves
    request_executor  what hosts ask of an executor; ``group`` is several of them side by side
    executor          the loop: take in what came, ask the policy, carry its decision out
    engine_actions    how a decision is carried out, on the requests and on the device

What an executor is made of: ``inbox`` (what other threads have to say), ``jobs`` (answers in hand,
and how each request ends), ``segment_runs``, ``cohort_batches``, ``exit_times`` (predictions that
admission reads), ``probe`` (of an idle engine), ``liveness`` (of its thread), ``failures``.

Depends on ``serving.core``. Begin with ``executor``.
"""
