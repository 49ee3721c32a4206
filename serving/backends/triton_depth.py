"""Depth backend: the executor in the gateway, its only segments the depth models of a Triton.

A supervisor asks Triton every ``HEARTBEAT_S`` whether all of them are ready. When they are not, the
call under way is given up and requests are refused until they are again; the executor and what it
has learnt live on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from serving.artifacts.model_folders import depth_model
from serving.backends.embedded import StartEngine
from serving.backends.in_process import InProcessBackend
from serving.backends.threads import in_daemon_thread
from serving.core.errors import BackendError
from serving.core.family import Family
from serving.core.latency import LatencyModel
from serving.core.model_entry import ModelEntry
from serving.execution.engine import Engine
from serving.imaging.decoding import refit
from serving.runners.family import FamilyRunner
from serving.runners.triton import BATCH_SIZES, TritonRunner
from serving.triton.registered_memory import TritonMemory
from serving.triton.rpc import CHANNEL_OPTIONS

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.25
ANSWER_WITHIN_S = 0.75
"""Seconds within which a Triton must say that it is ready, or it is taken not to be."""
SHARED_SLOTS = 2
"""Number of batches in shared memory at once: one call is under way at a time."""


class _NotReady(Exception):
    """Error of a Triton that is not ready; the message says why."""


class TritonDepthBackend(InProcessBackend):
    """``Backend`` over an ``Executor`` here and the depth models of a Triton.

    They are ``<model>_d1`` .. ``<model>_dN``, or those of each input size, in the Triton at ``url``
    (host:port of its gRPC).
    """

    def __init__(
        self, entry: ModelEntry, url: str, start_engine: StartEngine, use_shared_memory: bool
    ) -> None:
        super().__init__(Family((entry,)), self._open)
        self._url = url
        self._start_engine = start_engine
        image_bytes = self.family.input_height * self.family.input_width * 3
        self._memory = TritonMemory(image_bytes * BATCH_SIZES[-1], SHARED_SLOTS, use_shared_memory)
        self._models = [
            depth_model(self.family.catalogs[model], depth)
            for model, depth in self.family.ladder.points
        ]
        self._runners: list[TritonRunner] = []
        """One for each input size, once they have been there."""
        self._reachable = False
        self._became_ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the engine is warm and not stopping, and all depth models were just there."""
        return super().ready and self._reachable

    @property
    def alive(self) -> bool:
        """True: what hangs is Triton, and another process here would meet the same one."""
        return True

    async def start(self) -> None:
        """Return once all depth models have been there and were warmed up; until then, wait."""
        self._memory.open()
        self._running = asyncio.create_task(self._supervise())
        await self._became_ready.wait()

    async def stop(self, grace_s: float) -> None:
        """Drain for up to ``grace_s`` seconds, then hang up."""
        self._stopping = True
        await in_daemon_thread(lambda: self._supervisor.stop(grace_s))
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._memory.close(self._url)

    async def _supervise(self) -> None:
        complaint = ""
        async with grpc.aio.insecure_channel(self._url, CHANNEL_OPTIONS) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while True:
                try:
                    await self._check(stub)
                    complaint = ""
                except (_NotReady, BackendError) as error:
                    self._lose()
                    if str(error) != complaint:
                        complaint = str(error)
                        log.warning("no engine in Triton at %s (trying on): %s", self._url, error)
                except Exception:  # whatever breaks one attempt must not prevent the next
                    self._lose()
                    log.exception("an attempt to use Triton at %s broke", self._url)
                await asyncio.sleep(HEARTBEAT_S)

    async def _check(self, stub: Any) -> None:
        """Make sure of the models; if they have just come, of everything else.

        Raises _NotReady or BackendError.
        """
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                for model in self._models:
                    if not (await stub.ModelReady(pb.ModelReadyRequest(name=model))).ready:
                        raise _NotReady(f"model {model} is not loaded")
                if self._reachable:
                    return
                await self._memory.register(stub)
        except TimeoutError as error:
            raise _NotReady(f"no answer within {ANSWER_WITHIN_S} s") from error
        except grpc.aio.AioRpcError as error:
            raise _NotReady(f"{error.code().name}: {error.details()}") from error
        if not self._runners:
            await in_daemon_thread(self._supervisor.start)
        for runner in self._runners:
            runner.share(self._memory.registered)
        self._reachable = True
        self._became_ready.set()
        log.info("in touch with %s .. in Triton at %s", self._models[0], self._url)

    def _open(self, latencies: Sequence[LatencyModel] | None) -> Engine:
        """Warm the models up from the gateway, and return the engine. Raises BackendError."""
        runners: list[TritonRunner] = []
        try:
            for catalog in self.family.catalogs:
                runners.append(TritonRunner(catalog, self._url))
                runners[-1].share(self._memory.registered)
            several = len(runners) > 1
            engine = self._start_engine(
                [FamilyRunner(self.family, runners, refit) if several else runners[0]], latencies
            )
        except BaseException:
            for runner in runners:
                runner.close()
            raise
        self._runners = runners
        return engine

    def _lose(self) -> None:
        self._reachable = False
        for runner in self._runners:
            runner.share(None)
            runner.abort()
        self._memory.lose()
