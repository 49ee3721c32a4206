"""Shared memory between a gateway and its Triton, registered there."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from serving.triton.rpc import CHANNEL_OPTIONS, RPC_TIMEOUT_S, orphans, register_request
from serving.triton.shared_memory import FOLDER, PREFIX, SharedImages, sweep

log = logging.getLogger(__name__)


class TritonMemory:
    """A gateway's ``SharedImages``, and whether Triton has mapped them.

    Where that cannot be, images go with the messages, which the log says once.
    """

    def __init__(self, slot_bytes: int, num_slots: int, wanted: bool) -> None:
        self._slot_bytes = slot_bytes
        self._num_slots = num_slots
        self._wanted = wanted
        self._shared: SharedImages | None = None
        self._mapped = False

    @property
    def registered(self) -> SharedImages | None:
        """Memory that Triton has mapped; None where images must go with the messages."""
        return self._shared if self._mapped else None

    def open(self) -> None:
        """Create the memory, and remove what killed gateways have left behind."""
        if not self._wanted:
            return
        for name in sweep():
            log.info("removed %s, left behind by a gateway that was killed", name)
        try:
            self._shared = SharedImages(self._slot_bytes, self._num_slots)
        except OSError as error:
            log.warning("no shared memory (%s): images go with the messages", error)

    async def register(self, stub: Any) -> None:
        """Have Triton map the memory, and drop what it has mapped of gateways that are gone.

        ``stub`` is asynchronous. Raises AioRpcError when Triton is not there.
        """
        self._mapped = False
        if self._shared is None:
            return
        status = pb.SystemSharedMemoryStatusRequest()
        known = await stub.SystemSharedMemoryStatus(status, timeout=RPC_TIMEOUT_S)
        alive = [path.name for path in FOLDER.glob(f"{PREFIX}*")]
        for name in orphans(list(known.regions), self._shared.name, alive):
            await _unregister(stub, name)
        if self._shared.name not in known.regions:
            request = register_request(self._shared)
            try:
                await stub.SystemSharedMemoryRegister(request, timeout=RPC_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                log.warning(
                    "Triton cannot map our memory, so images go with the messages: %s",
                    error.details(),
                )
                return
        self._mapped = True

    def lose(self) -> None:
        """Take the memory as not mapped: Triton may have gone, and come back without it."""
        self._mapped = False

    async def close(self, url: str) -> None:
        """Remove the memory.

        The Triton at ``url`` is told to let go of it, if it is there.
        """
        if self._shared is None:
            return
        if self._mapped:
            async with grpc.aio.insecure_channel(url, CHANNEL_OPTIONS) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await _unregister(GRPCInferenceServiceStub(channel), self._shared.name)
        self._mapped = False
        self._shared.close()


async def _unregister(stub: Any, name: str) -> None:
    """Have Triton let go of the memory called ``name``."""
    request = pb.SystemSharedMemoryUnregisterRequest(name=name)
    await stub.SystemSharedMemoryUnregister(request, timeout=RPC_TIMEOUT_S)
