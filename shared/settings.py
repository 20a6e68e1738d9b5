"""All settings: one frozen value with the prefix RERANK_, read at an entry point and passed down.

No other module reads the environment. docs/settings.md is made from this file by `make docs`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rerankfleet.shared.addresses import canonical, file_uri
from rerankfleet.shared.environment import refuse_unknown, url_in
from rerankfleet.shared.errors import UsageError

ADDRESS_FILE = "address.json"
STORAGE_FOLDER = "storage"
"""Where in the state folder objects are kept when no storage is named."""


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "rerankfleet"


SECTIONS = {
    "redis_url": "Redis, storage, access",
    "batch_policy": "Batch sizes",
    "dtype": "Model and device",
    "shards_in_hand": "Work that a worker holds",
    "image_bytes_max": "Images",
    "shard_seconds": "Jobs and requests",
    "gateway_host": "Gateway",
    "lease_s": "Times",
    "log_level": "Logs",
}
"""The headings of docs/settings.md, by the first setting under each."""


class Settings(BaseSettings):
    """Where things are and how they behave. Times in seconds, sizes in bytes unless named."""

    model_config = SettingsConfigDict(
        env_prefix="RERANK_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    redis_url: SecretStr | None = Field(
        None, description="URL of Redis or Valkey, `redis://` or `rediss://`"
    )
    redis_url_file: Path | None = Field(
        None,
        description="file that holds that URL, password included; read when `RERANK_REDIS_URL` "
        "is not set",
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir, description="data and address of `rerank up`"
    )
    storage: str | None = Field(
        None, description="folder or `s3://bucket/prefix` for the files of running jobs"
    )
    key_prefix: str = Field("rerank", description="first part of every Redis key")
    allowed_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="buckets that inputs, images and outputs may be in, each `bucket` or "
        "`bucket/prefix`, comma-separated; outputs not over HTTP",
    )
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="folders that inputs, images and outputs may be in, comma-separated; outputs "
        "not over HTTP",
    )
    output_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="folders that outputs may be in, comma-separated; the only ones for jobs that "
        "are submitted over HTTP",
    )
    output_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="the same for buckets, each `bucket` or `bucket/prefix`",
    )
    http_force: bool = Field(False, description="lets `force` over HTTP replace outputs that exist")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="hosts that images may be fetched from, `host` or `host:port`, comma-separated",
    )
    jobs_bytes_max: int = Field(
        0,
        ge=0,
        description="bytes of the storage that jobs may keep together before new ones are refused; "
        "0: no limit",
    )
    free_bytes_min: int = Field(
        1 << 30,
        ge=0,
        description="free bytes of the storage's disk below which uploads and new jobs are "
        "refused; 0: none",
    )
    profiles: Path | None = Field(None, description="TOML file with your own profiles")

    batch_policy: Literal["model", "thresholds", "aimd", "fixed"] = Field(
        "model",
        description="how a worker's pack limit follows the observed latency; `fixed`: it does not",
    )
    batch_tokens: int | None = Field(
        None,
        ge=64,
        description="initial pack limit in tokens; measured at start when not set",
    )
    batch_pairs: int = Field(
        1024,
        ge=1,
        description="pack limit in pairs; the initial one under the policy `thresholds`",
    )
    batch_tokens_min: int = Field(
        64, ge=64, description="lower bound of the pack limit under every policy"
    )
    batch_tokens_max: int = Field(
        131_072,
        ge=64,
        description="upper bound of the pack limit under every policy; a CPU's memory may lower it",
    )
    latency_target_ms: float = Field(1000.0, gt=0, description="target p95 latency of a pack")
    interactive_latency_target_ms: float = Field(
        200.0,
        gt=0,
        description="target p95 of a pack and the interactive pack after it, while "
        "interactive requests arrive",
    )
    threshold_low_ms: float = Field(
        200.0,
        gt=0,
        description="policy `thresholds`: the limit doubles below this mean pack latency",
    )
    threshold_high_ms: float = Field(
        1000.0,
        gt=0,
        description="policy `thresholds`: the limit halves above this mean pack latency",
    )
    threshold_pairs_min: int = Field(
        4, ge=1, description="policy `thresholds`: lower bound of the limit"
    )
    threshold_pairs_max: int = Field(
        16, ge=1, description="policy `thresholds`: upper bound of the limit"
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="number type of the weights"
    )
    attention: str = Field(
        "auto", description="attention kernel; `auto` chooses the best available"
    )
    device: str = Field("auto", description="`auto`, `cpu` or `cuda`")
    revision: str | None = Field(
        None, description="commit, branch or tag of a model from the hub; its newest when not set"
    )
    gpus_per_worker: int = Field(
        1, ge=1, description="GPUs that one copy of the model is split over, layer by layer"
    )
    deterministic: bool = Field(
        False, description="fixed pack shapes, so that equal runs give equal bits"
    )
    kept_bytes: int | None = Field(
        None,
        ge=0,
        description="device memory of the prefix cache; when not set, a share of the device's, "
        "and enough for two of the largest image queries",
    )
    seen_bytes: int | None = Field(
        None,
        ge=0,
        description="device memory of the cache of visual features; when not set, a share of the "
        "device's",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a worker; chosen by torch when not set"
    )
    shards_in_hand: int = Field(3, ge=1, description="bulk shards that a worker holds at once")
    interactive_slots: int = Field(
        8, ge=1, description="interactive shards that a worker holds at once"
    )

    image_bytes_max: int = Field(32 << 20, ge=1024, description="maximum size of an image")
    image_timeout_s: float = Field(10.0, gt=0, description="timeout for fetching one image")
    decode_processes: int | None = Field(
        None, ge=1, description="processes that decode images; half the cores when not set"
    )

    shard_seconds: float = Field(5.0, gt=0, description="device time that a shard is sized for")
    shard_pairs_max: int = Field(4096, ge=1, description="maximum number of pairs in a shard")
    window_min: int = Field(16, ge=1, description="minimum number of open shards per model")
    max_documents_per_request: int = Field(
        10_000, ge=1, description="maximum number of documents in a request"
    )
    max_line_bytes: int = Field(64 << 20, ge=1024, description="maximum length of a line of input")
    inline_bytes_max: int = Field(
        4 << 20, ge=1, description="maximum payload of an interactive request"
    )
    interactive_queue_max: int = Field(
        256,
        ge=1,
        description="maximum number of waiting interactive shards; beyond it requests get 429",
    )
    interactive_shards_max: int = Field(
        32,
        ge=1,
        description="maximum number of shards that one interactive request is cut into; a large "
        "one gets larger shards",
    )
    interactive_images_max: int = Field(
        256,
        ge=1,
        description="maximum number of images, frames included, of an interactive request",
    )
    interactive_pixels_max: int = Field(
        2_000_000_000,
        ge=1,
        description="maximum number of pixels, before scaling, of an interactive request's images",
    )
    interactive_deadline_s: float = Field(
        60.0, gt=0, description="default deadline of an interactive request"
    )

    gateway_host: str = Field("127.0.0.1", description="address that `rerank gateway` listens on")
    gateway_port: int = Field(
        8080,
        ge=0,
        le=65535,
        description="port of the gateway; `rerank up` takes the next free one from here",
    )
    gateway_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="host names that a gateway without keys accepts besides localhost, its "
        "own and IP addresses, comma-separated",
    )
    gateway_requests_max: int = Field(
        512, ge=1, description="concurrent rerank requests per gateway; beyond it 429"
    )
    gateway_streams_max: int = Field(
        64, ge=1, description="results being read per gateway; beyond it 429"
    )
    gateway_jobs_max: int = Field(
        64, ge=1, description="jobs being submitted per gateway; beyond it 429"
    )
    gateway_events_max: int = Field(
        128, ge=1, description="jobs being followed by events per gateway; beyond it 429"
    )
    gateway_uploads_max: int = Field(
        16,
        ge=1,
        description="concurrent uploads per gateway, up to 33 MiB of memory each; beyond it 429",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="keys of the gateway with every right, comma-separated; without any, and "
        "without the file below, it is open",
    )
    api_keys_file: Path | None = Field(
        None,
        description="TOML file of the gateway's keys with names, rights and rates, which "
        "`rerank key` helps to write; a change of it is in force at once",
    )
    no_keys: bool = Field(
        False, description="lets a gateway without keys listen beyond this host: `--no-keys`"
    )
    upload_bytes_max: int = Field(1 << 30, ge=1, description="maximum size of an upload")
    upload_ttl_s: float = Field(86_400.0, gt=0, description="default lifetime of an upload")
    uploads_bytes_max: int = Field(
        100 << 30,
        ge=0,
        description="maximum bytes of all uploads together; beyond it 507; 0: no limit",
    )
    upload_ttl_max_s: float = Field(30 * 86_400, gt=0, description="maximum lifetime of an upload")

    lease_s: float = Field(
        15.0, ge=1, description="how long a claimed shard stays claimed without renewal"
    )
    heartbeat_s: float = Field(2.0, gt=0, description="interval of a worker's reports")
    tick_s: float = Field(
        2.0, gt=0, le=3, description="interval of the coordinator's reconciliation"
    )
    hint_grace_s: float = Field(
        5.0,
        ge=0,
        description="how long a hint may be missing from the queue before it is sent again",
    )
    storage_wait_s: float = Field(
        300.0,
        gt=0,
        description="how long a job waits for files that are not there or may not be touched "
        "before it is paused, and how often it then looks again by itself",
    )
    drain_s: float = Field(18.0, gt=0, description="time that a worker has to shut down")
    stall_timeout_s: float = Field(
        300.0, gt=0, description="a worker whose pack takes longer than this is restarted"
    )
    result_ttl_s: float = Field(7 * 86_400, gt=0, description="how long a finished job is kept")
    parts_ttl_s: float = Field(
        3600.0, ge=0, description="how long the part files of a finished job are kept"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="minimum level of log lines"
    )

    @field_validator(
        *("allowed_buckets", "allowed_hosts", "allowed_roots", "output_buckets", "output_roots"),
        *("gateway_names", "api_keys"),
        mode="before",
    )
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("gateway_port", mode="before")
    @classmethod
    def _not_a_service(cls, value: Any) -> Any:
        """Kubernetes sets RERANK_GATEWAY_PORT=tcp://... where a Service is named rerank-gateway."""
        is_link = isinstance(value, str) and value.startswith("tcp://")
        return cls.model_fields["gateway_port"].default if is_link else value

    @field_validator("batch_tokens_max", "threshold_high_ms", "threshold_pairs_max")
    @classmethod
    def _above_its_lower_bound(cls, value: float, info: ValidationInfo) -> float:
        assert info.field_name is not None
        lower = info.field_name.replace("max", "min").replace("high", "low")
        if value < info.data.get(lower, value):
            raise ValueError(f"it is below RERANK_{lower.upper()}, {info.data[lower]:g}")
        return value

    @property
    def storage_uri(self) -> str:
        """The storage as a URI without a slash at its end."""
        storage = self.storage or str(self.state_dir / STORAGE_FOLDER)
        if "://" not in storage:
            return file_uri(storage)
        return canonical(storage).rstrip("/")

    @property
    def redis_address(self) -> str:
        """The Redis URL, secrets included. Raises UsageError when none is known."""
        if self.redis_url is None:
            raise UsageError(
                "no Redis is known",
                hint="start a fleet in another terminal, or set RERANK_REDIS_URL",
                command="rerank up",
            )
        return self.redis_url.get_secret_value()

    @property
    def engine_options(self) -> dict[str, Any]:
        """How a model is to be loaded: what `load_engine` takes."""
        names = (
            "dtype",
            "attention",
            "revision",
            "device",
            "deterministic",
            "kept_bytes",
            "seen_bytes",
            "threads",
        )
        return {name: getattr(self, name) for name in names} | {"gpus": self.gpus_per_worker}

    @property
    def lease_ms(self) -> int:
        """`lease_s` in the unit that scripts take."""
        return int(self.lease_s * 1000)

    def environment(self) -> dict[str, str]:
        """These settings as RERANK_ variables, for a child process. Holds secrets: never print."""
        out: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            value = ",".join(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
            if value not in (None, ""):
                out[f"RERANK_{name.upper()}"] = value
        return out


def _plain(value: Any) -> Any:
    """A setting's value as text, a secret's too; None as it is."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return None if value is None else str(value)


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; where no Redis is named, take the address that `rerank up` recorded.

    Raises UsageError naming the variable that is wrong.
    """
    settings = read_environment(**overrides)
    if settings.redis_url is not None:
        return settings
    address = read_address(settings.state_dir)
    recorded = {k: v for k in ("redis_url", "storage") if isinstance(v := address.get(k), str)}
    if settings.storage:
        recorded.pop("storage", None)
    return read_environment(**overrides | recorded)


def read_environment(**overrides: Any) -> Settings:
    """Read the environment alone. Raises UsageError naming the variable that is wrong, or that is
    none: a misspelt RERANK_API_KEYS would leave a gateway open."""
    refuse_unknown(os.environ, Settings.model_fields)
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"][:1]).upper()
        raise UsageError(f"RERANK_{name} is wrong: {first['msg']}") from error
    if settings.redis_url is None and settings.redis_url_file is not None:
        url = SecretStr(url_in(settings.redis_url_file))
        settings = settings.model_copy(update={"redis_url": url})
    return settings


def read_address(state_dir: Path) -> dict[str, Any]:
    """What a running `rerank up` recorded in its state folder; empty when there is none."""
    try:
        address = json.loads((state_dir / ADDRESS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return address if isinstance(address, dict) else {}
