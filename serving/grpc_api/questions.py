"""What clients ask of a server beside boxes: whether it lives, is ready, and what it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from serving.api.kserve import (
    EXTENSIONS,
    PLATFORM,
    describe_config,
    describe_model,
    describe_statistics,
    last_inference_ms,
)
from serving.api.lifecycle import Lifecycle
from serving.core.ports import Backend, Clock
from serving.grpc_api.messages import check_model
from serving.observability.totals import Totals


@dataclass(frozen=True, slots=True)
class Question:
    """One method: the class of what is asked, and the function to the answer, both messages."""

    kind: Any
    answer: Callable[[Any], Any]
    is_public: bool = False
    """Whether anybody may ask."""


class Questions:
    """The questions that are answered at once, about one server."""

    def __init__(
        self,
        backend: Backend,
        lifecycle: Lifecycle,
        totals: Totals,
        *,
        clock: Clock,
        wall_clock: Clock,
    ) -> None:
        self._backend = backend
        self._lifecycle = lifecycle
        self._totals = totals
        self._clock = clock
        self._wall_clock = wall_clock

    def by_method(self) -> Mapping[str, Question]:
        """Return the questions by the names of their methods."""
        return {
            "ServerLive": Question(pb.ServerLiveRequest, self._live, is_public=True),
            "ServerReady": Question(pb.ServerReadyRequest, self._ready, is_public=True),
            "ModelReady": Question(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": Question(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": Question(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": Question(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": Question(pb.ModelStatisticsRequest, self._statistics),
            "RepositoryIndex": Question(pb.RepositoryIndexRequest, self._index),
        }

    def _live(self, _: pb.ServerLiveRequest) -> Any:
        return pb.ServerLiveResponse(live=self._backend.alive)

    def _ready(self, _: pb.ServerReadyRequest) -> Any:
        return pb.ServerReadyResponse(ready=self._lifecycle.ready)

    def _model_ready(self, request: pb.ModelReadyRequest) -> Any:
        check_model(self._backend.family, request.name, request.version)
        return pb.ModelReadyResponse(ready=self._lifecycle.ready)

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> Any:
        version = metadata.version("punctual")
        return pb.ServerMetadataResponse(name=PLATFORM, version=version, extensions=EXTENSIONS)

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> Any:
        family = self._backend.family
        check_model(family, request.name, request.version)
        return ParseDict(describe_model(family), pb.ModelMetadataResponse())

    def _model_config(self, request: pb.ModelConfigRequest) -> Any:
        family = self._backend.family
        check_model(family, request.name, request.version)
        return ParseDict({"config": describe_config(family)}, pb.ModelConfigResponse())

    def _statistics(self, request: pb.ModelStatisticsRequest) -> Any:
        family, totals = self._backend.family, self._totals
        if request.name:
            check_model(family, request.name, request.version)
        last_ms = last_inference_ms(totals, self._clock, self._wall_clock)
        statistics = describe_statistics(family, totals, last_ms)
        return ParseDict({"model_stats": [statistics]}, pb.ModelStatisticsResponse())

    def _index(self, _: pb.RepositoryIndexRequest) -> Any:
        family = self._backend.family
        response = pb.RepositoryIndexResponse()
        state = "READY" if self._backend.ready else "UNAVAILABLE"
        response.models.add(name=family.name, version=family.version, state=state)
        return response
