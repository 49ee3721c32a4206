"""The model ``<model>_anytime``: the executor hosted by Triton's Python backend (decoupled).

    execute  -> submit  -> executor's thread -> outbox -> messenger's thread <-> Triton

Triton's queue stays empty: a request is handed over as it comes, and the policy decides. Whatever
costs a message to Triton's process (a response, a metric, the question whether a client has gone)
is left to the messenger, and the engine runs on. It is one thread, since to ask about a request
that has just been ended would crash Triton.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from serving.artifacts.model_folders import read_entry
from serving.core.errors import (
    BackendUnavailable,
    FrameSuperseded,
    InvalidParameter,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    ServingError,
)
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.request import Answered, Request, Result
from serving.execution.engine import SWITCH_INTERVAL_S, Engine, error_of, start_engine
from serving.execution.request_executor import RequestExecutor
from serving.execution.supervisor import Supervisor
from serving.imaging.decoding import refit
from serving.models.opening import open_family
from serving.system.parent import end_with_parent
from serving.triton import wire
from serving.triton_backend.metrics import HostMetrics
from serving.triton_backend.model_config import parameters, runtime_options
from serving.triton_backend.tensors import to_array, to_tensor

DEFAULT_BUDGET_S = 1.0
"""Budget, in seconds, of a request without a ``timeout``."""
MAX_WAITING = 64
"""Number of requests that may wait at once."""
MAX_COHORTS = 4
"""Number of cohorts that may be on the device at once."""
WATCH_EVERY_S = 0.005
"""Seconds between two looks at whether clients have gone."""
CHECKED_AT_ONCE = 8
"""Number of requests looked at each time: to ask about one costs some tens of microseconds."""
STOP_GRACE_S = 5.0
"""Seconds that requests in flight are given to end when the model is unloaded."""

# Names in pb_utils.TritonError, which the stub provides only once this module has been imported.
_CODES: dict[type[ServingError], str] = {
    InvalidRequest: "INVALID_ARG",
    Overloaded: "UNAVAILABLE",
    RequestCancelled: "CANCELLED",
    FrameSuperseded: "CANCELLED",
    ServingError: "INTERNAL",
}


@dataclass(slots=True)
class _Open:
    """A request that has not ended.

    The Triton request is kept since the image lies in it.
    """

    name: str
    triton_request: Any
    sender: Any
    every_exit: bool
    """Whether its client wants the answer of every exit, and then to be told of the end."""
    sent: Answered | None = None
    """Latest answer that it has been sent before its end."""


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message to send: boxes, an error, or neither.

    ``last`` ends the request.
    """

    sender: Any
    content: Answered | ServingError | wire.EngineStatus | None
    last: bool
    number: int | None = None
    """Number of a request that is to be watched no longer."""


@dataclass(frozen=True, slots=True)
class _Watch:
    """A request whose client may leave without saying so to us."""

    sender: Any
    number: int


class TritonPythonModel:
    """The class that Triton's Python backend looks for; called from one thread."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the runner, warm it up, and start the executor and the messenger.

        Raising makes Triton report the model as unavailable.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        end_with_parent()
        options = parameters(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        how = runtime_options(options)
        entry = read_entry(folder)
        self._digest = wire.short_digest(entry.digest)
        self._family = Family((entry,))
        self._metrics = HostMetrics(self._family)

        def open_engine(latencies: Sequence[LatencyModel] | None) -> Engine:
            runner = open_family((folder,), how, refit)
            return start_engine(
                [runner],
                self._family,
                clock=time.monotonic,
                observer=self._metrics,
                max_waiting=MAX_WAITING,
                max_cohorts=MAX_COHORTS,
                latencies=latencies,
            )

        self._supervisor = Supervisor(open_engine, time.monotonic)
        self._supervisor.start()
        self._ids = itertools.count()
        # Guarded by _lock, since requests end in the executor's thread:
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}
        self._ids_by_name: dict[str, int] = {}
        self._outbox: queue.SimpleQueue[_Outgoing | _Watch | None] = queue.SimpleQueue()
        self._messenger = threading.Thread(
            target=self._deliver_messages, name="messenger", daemon=True
        )
        self._messenger.start()
        # What was loaded stays; collections that skip it take microseconds.
        gc.collect()
        gc.freeze()

    def execute(self, requests: list[Any]) -> None:
        """Take requests; their responses come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except ServingError as error:
                self._outbox.put(_Outgoing(sender, error, last=True))

    def finalize(self) -> None:
        """Let what is in flight end, then free everything."""
        self._supervisor.stop(STOP_GRACE_S)
        self._outbox.put(None)
        self._messenger.join()

    # -- in ------------------------------------------------------------------------------------

    def _take(self, triton_request: Any, sender: Any) -> None:
        """Submit a request to the executor, or carry out its command. Raises ServingError."""
        options = _options(triton_request)
        command = options.pop(wire.COMMAND, None)
        if command is not None:
            self._run_command(command, options, sender)
            return
        watched = not options.pop(wire.CANCEL_BY_ID, False)
        in_hand = bool(options.pop(wire.ANSWERS_IN_HAND, False))
        executor = self._executor()
        image = _image(triton_request)
        request = self._request(triton_request, options)
        entry = _Open(triton_request.request_id(), triton_request, sender, request.streaming)
        with self._lock:
            self._open[request.id] = entry
            if entry.name:
                self._ids_by_name[entry.name] = request.id
        if watched:
            self._outbox.put(_Watch(sender, request.id))

        def on_exit(answered: Answered) -> None:
            entry.sent = answered
            self._outbox.put(_Outgoing(sender, answered, last=False))

        executor.submit(
            request, image, self._done, on_exit if request.streaming or in_hand else None
        )

    def _request(self, triton_request: Any, options: dict[str, Any]) -> Request:
        """Return a request as the executor sees it. Raises InvalidParameter."""
        num_exits = self._family.num_exits
        min_depth = _positive(options, wire.MIN_DEPTH, 1)
        max_depth = min(_positive(options, wire.MAX_DEPTH, num_exits), num_exits)
        streaming = options.pop(wire.EVERY_EXIT, False)
        principal = str(options.pop(wire.PRINCIPAL, ""))
        share = _positive(options, wire.SHARE_THOUSANDTHS, 1000) / 1e3
        stream = str(options.pop(wire.STREAM, ""))
        is_promised = bool(options.pop(wire.PROMISED, False))
        reserve_s = _positive(options, wire.IN_HAND_RESERVE_US, 1) / wire.MICROSECONDS
        if options:
            raise InvalidParameter(f"There is no parameter {next(iter(options))!r}.")
        if not min_depth <= max_depth:
            raise InvalidParameter(f"min_depth, {min_depth}, is above max_depth, {max_depth}.")
        arrival_s = time.monotonic()
        timeout_us = triton_request.timeout()
        budget_s = timeout_us / wire.MICROSECONDS if timeout_us else DEFAULT_BUDGET_S
        return Request(
            next(self._ids),
            arrival_s,
            arrival_s + budget_s,
            min_depth,
            max_depth,
            bool(streaming),
            principal,
            share,
            stream,
            reserve_s,
            is_promised=is_promised,
        )

    def _run_command(self, command: Any, options: Mapping[str, Any], sender: Any) -> None:
        """Carry out a command of the gateway. Raises InvalidParameter if there is none such."""
        if command == wire.COMMAND_STATUS:
            self._outbox.put(_Outgoing(sender, self._status(), last=True))
            return
        executor = self._executor()
        ends = {wire.COMMAND_CANCEL: executor.cancel, wire.COMMAND_CONCLUDE: executor.conclude}
        end = ends.get(command)
        if end is None:
            raise InvalidParameter(f"There is no command {command!r}.")
        with self._lock:
            number = self._ids_by_name.get(str(options.get(wire.TARGET)))
        if number is not None:
            end(number)
        self._outbox.put(_Outgoing(sender, None, last=True))

    def _executor(self) -> RequestExecutor:
        """Return the executor. Raises BackendUnavailable while one that hung is being replaced."""
        engine = self._supervisor.engine
        if engine is None:
            raise BackendUnavailable("The engine is not ready.")
        return engine.executor

    def _status(self) -> wire.EngineStatus:
        """Return the state of the executor. Raises BackendUnavailable."""
        executor = self._executor()
        points = [(depth, model) for model, depth in self._family.ladder.points]
        return wire.EngineStatus(
            self._digest,
            executor.num_waiting,
            executor.num_in_flight,
            executor.num_held,
            tuple(executor.predicted_s(*point) for point in points),
            tuple(executor.tail_s(*point) for point in points),
        )

    # -- out -----------------------------------------------------------------------------------

    def _done(self, result: Result) -> None:
        """Send how a request ended; called in the executor's thread."""
        with self._lock:
            entry = self._open.pop(result.request.id)
            if self._ids_by_name.get(entry.name) == result.request.id:
                del self._ids_by_name[entry.name]
        number = result.request.id
        content = None if result is entry.sent else _content(result)
        if entry.every_exit and isinstance(content, Answered):  # the end is told by an empty one
            self._outbox.put(_Outgoing(entry.sender, content, last=False))
            content = None
        self._outbox.put(_Outgoing(entry.sender, content, last=True, number=number))

    def _deliver_messages(self) -> None:
        """Send what is in the outbox, and watch clients; the messenger's thread runs it."""
        watched: dict[int, Any] = {}  # the one asked about longest ago first
        checked_s = time.monotonic()
        while True:
            if watched and time.monotonic() - checked_s >= WATCH_EVERY_S:
                self._cancel_given_up(watched)
                checked_s = time.monotonic()
            try:
                item = self._outbox.get(timeout=WATCH_EVERY_S if watched else None)
            except queue.Empty:
                continue
            match item:
                case None:
                    return
                case _Watch(sender=sender, number=number):
                    watched[number] = sender
                case _Outgoing() as outgoing:
                    if outgoing.number is not None:
                        watched.pop(outgoing.number, None)
                    try:
                        self._send(outgoing)
                    except Exception as error:  # a client that has gone must not end the thread
                        pb_utils.Logger.log_warn(f"a response could not be sent: {error}")
                    self._metrics.publish()

    def _cancel_given_up(self, watched: dict[int, Any]) -> None:
        """Cancel what Triton knows to be given up, going round over all."""
        for number in list(itertools.islice(watched, CHECKED_AT_ONCE)):
            sender = watched.pop(number)
            if sender.is_cancelled():
                with contextlib.suppress(BackendUnavailable):
                    self._executor().cancel(number)
            else:
                watched[number] = sender

    def _send(self, outgoing: _Outgoing) -> None:
        """Send one message."""
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if outgoing.last else 0
        match outgoing.content:
            case None:
                outgoing.sender.send(flags=flags)
            case ServingError() as error:
                outgoing.sender.send(_error_response(error), flags=flags)
            case wire.EngineStatus() as status:
                numbers = np.array(status.to_numbers(), np.int64)
                response = pb_utils.InferenceResponse([to_tensor(wire.STATUS, numbers)])
                outgoing.sender.send(response, flags=flags)
            case Answered() as answered:
                outgoing.sender.send(answer_response(answered), flags=flags)


def _content(result: Result) -> Answered | ServingError:
    """Return what the client is told of how its request ended."""
    return result if isinstance(result, Answered) else error_of(result)


def _options(triton_request: Any) -> dict[str, Any]:
    """Return the request's own parameters, without those that Triton's front ends add."""
    given = json.loads(triton_request.parameters() or "{}")
    return {name: value for name, value in given.items() if not name.startswith("triton_")}


def _positive(options: dict[str, Any], name: str, default: int) -> int:
    """Take the positive number called ``name`` out of ``options``. Raises InvalidParameter."""
    value = options.pop(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidParameter(f"{name} must be one integer from 1 up; it is {value!r}.")
    return value


def _image(triton_request: Any) -> Any:
    """Return the image, (H, W, 3) uint8, in the request's own memory.

    Triton has checked shape and type. Raises InvalidRequest if there is none.
    """
    for tensor in triton_request.inputs():
        if tensor.name() == wire.IMAGE:
            return to_array(tensor)
    raise InvalidRequest(f"There is no input {wire.IMAGE!r} in the request.")


def answer_response(answered: Answered) -> Any:
    """Return the boxes of one exit, as Triton sends them."""
    found = answered.detections
    queue_s = answered.finished_s - answered.request.arrival_s - answered.engine_s
    seconds = (queue_s, answered.engine_s, answered.predicted_s)
    times = np.array([round(s * wire.MICROSECONDS) for s in seconds], np.int64)
    points = ((answered.model, answered.depth), *answered.earlier)
    return pb_utils.InferenceResponse(
        [
            to_tensor(wire.BOXES, found.boxes_xyxy_input),
            to_tensor(wire.SCORES, found.scores),
            to_tensor(wire.LABELS, found.labels),
            to_tensor(wire.EXIT_DEPTH, np.array([answered.depth], np.int32)),
            to_tensor(wire.OPERATING_POINT, np.array(points, np.int32).ravel()),
            to_tensor(wire.TIMES, times),
        ]
    )


def _error_response(error: ServingError) -> Any:
    """Return an error, as Triton sends it."""
    code = next(_CODES[kind] for kind in type(error).mro() if kind in _CODES)
    triton_error = pb_utils.TritonError(
        wire.error_to_text(error), getattr(pb_utils.TritonError, code)
    )
    return pb_utils.InferenceResponse(error=triton_error)
