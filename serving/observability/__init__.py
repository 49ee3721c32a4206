"""What the server tells of itself: metrics, traces, and a log of decisions.

    metrics -> request_record   one request, once it has ended
            -> totals           sums of such records, for KServe's statistics
            -> backend_gauges, version_metrics, processor_time, event_loop   what is read when asked
    tracing, decision_log, log_rate   spans, decisions, and a bound on log lines

Depends on ``serving.core``. Begin with ``metrics``.
"""
