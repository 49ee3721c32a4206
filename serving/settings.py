"""Settings of one server process: the only reader of the environment (``PUNCTUAL_*``).

Built once, frozen, passed down. Nothing about a model is a setting: that is the catalogue's.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from serving.core.command_errors import CommandError

PREFIX = "PUNCTUAL_"

# What Kubernetes puts into every pod of a namespace for a Service called "punctual".
_SERVICE_LINK = re.compile(
    PREFIX + r"(SERVICE_(HOST|PORT.*)|PORT(_[0-9]+_(TCP|UDP).*)?)",
)
_SERVICE_LINK_HINT = (
    " (Kubernetes sets it for a Service called 'punctual'; set enableServiceLinks: false)"
)


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class SettingsError(CommandError):
    """Error of settings that cannot be used.

    ``problems`` has one sentence for each thing that is wrong.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self._problems = tuple(problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences that each say one thing that is wrong."""
        return self._problems


class Settings(BaseSettings):
    """Settings of one server; every field is also the environment variable ``PUNCTUAL_<FIELD>``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")

    model_repository: Path = Field(
        Path("model_repo"), description="Folder that holds <model>_anytime folders."
    )
    model: str | None = Field(
        None,
        description="Model to serve; by default the only one in the repository, or the one that is "
        "marked as the default. Several for the same classes, separated by commas, are served as "
        "one.",
    )
    runtime: Literal["openvino", "onnxruntime"] = Field(
        "openvino", description="What runs the segments."
    )
    precision: Literal["f32", "bf16", "int8"] | None = Field(
        None,
        description="What the embedded engine computes convolutions in, if the runtime has a "
        "choice; int8 needs quantised segments. By default int8 where they are there, cost no "
        "accuracy and gain here; else bf16 where the CPU multiplies it natively, else f32.",
    )
    num_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads of the runtime, in all; by default one per core.",
    )
    num_instances: int = Field(
        1,
        ge=1,
        le=64,
        description="Instances of the embedded engine: runs that may be under way at a time, each "
        "on an equal share of the threads.",
    )
    engine_process: bool = Field(
        False,
        description="Run the embedded engine in a process of its own: a crash in the runtime costs "
        "the requests inside, not the gateway. Each run takes a hand-over more.",
    )
    compile_cache: Path | None = Field(
        None,
        description="Folder to keep compiled segments in, from which the next start takes them; by "
        "default punctual in the user's cache folder.",
    )
    compile_cache_mb: int = Field(
        2048,
        ge=0,
        le=1_000_000,
        description="Most megabytes (2**20 bytes) that it may hold, beyond which what was least "
        "recently used goes; 0: nothing is kept.",
    )
    second_version_mb: int = Field(
        1024,
        ge=64,
        le=1_000_000,
        description="Most megabytes (2**20 bytes) of memory that a version of the model may take "
        "that is loaded beside the one which serves, of those that are left.",
    )
    backend: Literal["embedded", "triton", "triton-depth"] = Field(
        "embedded",
        description="Where the segments run: in this process; in a Triton, executor and all; or "
        "the executor here and one model per depth in a Triton.",
    )
    triton_url: str = Field(
        "127.0.0.1:8001", min_length=1, description="Host and gRPC port of that Triton."
    )
    triton_shared_memory: bool = Field(
        True, description="Give a Triton on this host its images in shared memory."
    )

    default_budget_ms: float = Field(
        1000.0, gt=0, description="Budget of a request that states none."
    )
    min_budget_ms: float = Field(
        1.0, gt=0, description="Smaller budgets are refused as infeasible, whatever the model."
    )
    max_budget_ms: float = Field(
        10_000.0, gt=0, le=600_000, description="Larger budgets are cut to this; the reply says so."
    )
    deepstack_budget_ms: float = Field(
        100.0,
        gt=0,
        description="Budget of a request to DeepStack's path that states none. By default what "
        "Frigate waits for an answer.",
    )
    network_reserve_ms: float = Field(
        3.0, ge=0, description="Part of every budget kept for writing and sending the reply."
    )

    max_body_bytes: int = Field(
        16 * 2**20,
        ge=1024,
        le=2**30,
        description="Largest request body, or message of a stream, in bytes.",
    )
    max_bodies_bytes: int = Field(
        256 * 2**20,
        ge=1024,
        le=2**40,
        description="Bytes of the bodies of all requests in the server at once. Where they do not "
        "do, the largest body that is still arriving is refused.",
    )
    max_pixels: int = Field(
        25_000_000, ge=1, le=150_000_000, description="Largest image, width times height."
    )
    max_parts: int = Field(
        16,
        ge=1,
        le=64,
        description="Most images, tiles or regions of one request.",
    )
    max_part_pixels: int = Field(
        50_000_000,
        ge=1,
        le=300_000_000,
        description="Most pixels that the parts of one request have together.",
    )
    max_requests: int = Field(
        256,
        ge=1,
        description="Detection requests inside the server at once, in any stage after their body "
        "has arrived; where several clients share it, an eighth more.",
    )
    max_connections: int = Field(
        1024,
        ge=8,
        description="Open connections. Beyond it, one that asks for nothing is closed for each new "
        "one; while there is none such, even health checks are refused.",
    )
    max_connections_per_address: int = Field(
        256,
        ge=1,
        description="The same for each client, which is an IPv4 address or 64 bits of an IPv6 "
        "address, but not for proxies.",
    )
    max_head_bytes: int = Field(
        16 * 2**10, ge=1024, le=2**20, description="Largest head of a request in bytes."
    )
    max_head_lines: int = Field(100, ge=8, le=10_000, description="Most header lines of a request.")
    head_timeout_ms: float = Field(
        5_000.0,
        gt=0,
        description="Time for a request's head to arrive, from the connection or its first byte.",
    )
    unread_timeout_ms: float = Field(
        10_000.0,
        gt=0,
        description="Time for a client to read a reply, before it is hung up on.",
    )
    allowed_hosts: str = Field(
        "*",
        min_length=1,
        description="Hosts that requests may ask for (header `Host`), separated by commas; "
        "`*.example.com` stands for all below. By default any. Health checks may ask for any.",
    )
    cors_origins: str = Field(
        "",
        description="Origins, such as `https://app.example.com`, separated by commas, whose pages "
        "may have browsers send requests here and read the replies; `*` for any. By default none.",
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="Addresses and networks, separated by commas, of proxies in front of the "
        "server: clients are then who `X-Forwarded-For` says they are.",
    )
    keys_file: Path | None = Field(
        None,
        description="File of the principals who may send requests, with the SHA-256 of their keys, "
        "as TOML or, if its name ends in .json, as JSON. It is read again when it changes, and on "
        "SIGHUP. Without it anybody may.",
    )
    principals: Literal["address", "everybody"] = Field(
        "address",
        description="Among whom the server is shared where there is no such file: among the "
        "addresses of clients, or not at all.",
    )
    admin_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port that metrics, documentation and changes of the model are served at, and "
        "at no other; by default they are served with the rest.",
    )

    max_streams: int = Field(
        256,
        ge=1,
        le=4096,
        description="Streams of one client that are known at once. Beyond it, one that nothing is "
        "sent on is forgotten for each new one.",
    )
    max_stream_frames: int = Field(
        4,
        ge=1,
        le=64,
        description="Frames of one stream under way at once, from decoding to the answer. Of those "
        "beyond, the newest waits.",
    )
    stream_idle_ms: float = Field(
        300_000.0,
        gt=0,
        description="Time without a frame after which a stream is forgotten, and its WebSocket "
        "closed.",
    )

    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port to serve KServe's protocol at over gRPC as well (extra `grpc`); 0 picks "
        "a free one. By default there is none.",
    )
    grpc_max_calls: int = Field(
        64,
        ge=1,
        le=4096,
        description="Calls over gRPC at once, of which a stream of messages is one; where several "
        "clients share it, an eighth more. As many messages arrive at once, and there are as many "
        "streams, as `max_body_bytes` goes into `max_bodies_bytes`.",
    )

    max_waiting: int = Field(
        64,
        ge=1,
        description="Decoded images waiting for the engine; where several clients share it, an "
        "eighth more.",
    )
    max_cohorts: int = Field(
        4, ge=1, description="Batches held on the device at once, at different depths."
    )
    num_decode_workers: int = Field(2, ge=1, le=256, description="Threads that decode images.")
    max_pending_decodes: int = Field(32, ge=0, description="Images waiting for a decoding thread.")
    max_decode_bytes: int = Field(
        512 * 2**20,
        ge=64 * 2**20,
        description="Memory for decoding, in bytes. What one image would take beyond that is "
        "refused; large ones wait until there is as much as they need.",
    )

    drain_delay_ms: float = Field(
        0.0,
        ge=0,
        description="After SIGTERM: keep serving, not ready, until load balancers have noticed.",
    )
    shutdown_grace_ms: float = Field(
        10_000.0, ge=0, description="After that: time for requests in flight to end."
    )
    decision_log: Path | None = Field(
        None,
        description="File for the scheduler's decisions, a line each with what was seen and why; "
        "not with the backend triton.",
    )
    tracing: bool = Field(
        False,
        description="Send OpenTelemetry traces over OTLP (extra otel); its variables, OTEL_..., "
        "say where to, and of which requests.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log lines that are written."
    )

    @property
    def models(self) -> tuple[str, ...]:
        """Names in ``model``; empty, if that is not set."""
        return _separate(self.model or "")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names in ``allowed_hosts``."""
        return _separate(self.allowed_hosts)

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins in ``cors_origins``."""
        return _separate(self.cors_origins)

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks in ``trusted_proxies``."""
        return tuple(map(ip_network, _separate(self.trusted_proxies)))

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        for proxy in _separate(proxies):
            ip_network(proxy)
        return proxies

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        for origin in _separate(origins):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin} is no origin: scheme://host or scheme://host:port")
        return origins

    @model_validator(mode="after")
    def _room_for_a_body(self) -> Settings:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError("max_body_bytes <= max_bodies_bytes must hold")
        return self

    @model_validator(mode="after")
    def _own_precision(self) -> Settings:
        if self.precision is not None and self.backend != "embedded":
            raise ValueError(
                f"precision is for the embedded engine: with the backend {self.backend}, what "
                "Triton runs decides"
            )
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> Settings:
        if self.admin_port is not None and self.admin_port == self.port:
            raise ValueError("admin_port must be another port than port")
        if self.grpc_port and self.grpc_port in (self.port, self.admin_port):
            raise ValueError("grpc_port must be another port than port and admin_port")
        return self

    @model_validator(mode="after")
    def _ordered_budgets(self) -> Settings:
        if not self.min_budget_ms <= self.default_budget_ms <= self.max_budget_ms:
            raise ValueError("min_budget_ms <= default_budget_ms <= max_budget_ms must hold")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: arguments win over the environment.

        No ``.env`` file and no secrets folder is read.
        """
        return init_settings, env_settings


def load(overrides: Mapping[str, Any]) -> Settings:
    """Read settings from the environment, with ``overrides`` (field -> value) on top.

    Raises SettingsError with every problem at once, unknown variables included.
    """
    problems = [_unknown(name) for name in sorted(os.environ) if _is_unknown(name)]
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        problems += [_sentence(detail, overrides) for detail in error.errors()]
    if problems:
        raise SettingsError(problems)
    return settings


def variable(field: str) -> str:
    """Return the environment variable of ``field``."""
    return PREFIX + field.upper()


def _separate(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _is_unknown(name: str) -> bool:
    return name.startswith(PREFIX) and name[len(PREFIX) :].lower() not in Settings.model_fields


def _unknown(name: str) -> str:
    if _SERVICE_LINK.fullmatch(name):
        return f"{name} is not a setting{_SERVICE_LINK_HINT}"
    close = difflib.get_close_matches(name, map(variable, Settings.model_fields), n=1, cutoff=0.0)
    return f"{name} is not a setting; did you mean {close[0]}?"


def _sentence(detail: Any, overrides: Mapping[str, Any]) -> str:
    """Return one validation error, named as the user wrote it.

    It is named by an option or an environment variable.
    """
    reason = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return str(reason)
    field = str(detail["loc"][0])
    name = "--" + field.replace("_", "-") if field in overrides else variable(field)
    value = str(detail["input"])
    hint = _SERVICE_LINK_HINT if value.startswith(("tcp://", "udp://")) else ""
    return f"{name}={value}: {reason}{hint}"
