"""HTTP interface of the server; the only place that knows status codes.

    around every request  middleware, cross_origin, access_gate, direct, lifecycle, connection,
                          problems
    detection             detect (the service), intake, budget, body, admission, backlog,
                          inference, replies, reply_times, request_context, request_timer
    its protocols         protocol_adapter (what each is), upload, forms, base64_json, options,
                          wanted_classes, result_json; kserve, tensors, inference_message; deepstack
    streaming answers     event_stream
    streams of frames     stream_session, stream_frames, handshake, frames, tracking, box_tracker
    parts of images       parts, cutting, parts_reply
    other routes          routes, model_control, web_page, pages, accept, numbers
    what is described     description, schemas, described_infer, described_problems

Depends on ``serving.access``, ``serving.core``, ``serving.imaging``, ``serving.observability`` and
``serving.triton``. Begin with ``detect``.
"""
