"""Submission: choose the model, pin the input, write the job's record, hint its feed.

A job that is not valid is refused here, before any work starts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rerankfleet.producer.coordinator.rows import refuse_large_ranking
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.inputs.catalog import pin_catalog, read_queries, refuse_existing_folder
from rerankfleet.producer.inputs.jsonl import pin
from rerankfleet.producer.quotas import Reservation
from rerankfleet.shared.addresses import printable
from rerankfleet.shared.errors import NotAllowed, Unavailable, UnknownModel, UsageError
from rerankfleet.shared.formats.shard_files import dump_queries, job_uri, queries_uri
from rerankfleet.shared.formats.sources import is_uri, refuse_existing, refuse_same, source_of
from rerankfleet.shared.ids import new_id
from rerankfleet.shared.job_spec import InputRef, JobSpec, OutputFormat, make_spec
from rerankfleet.shared.model_names import POCKET_MODELS, canonical_model
from rerankfleet.shared.profiles import resolve
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot
from rerankfleet.shared.state.statistics import StatisticsRecords
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.local_files import is_stream
from rerankfleet.shared.storage.objects import Objects

NO_INPUT = InputRef(uri="", size=0, tag="")
"""The input of a spec before it is pinned."""


class JobMaker:
    """Makes jobs of files and catalogs. The options are described at `Client.submit`."""

    def __init__(self, control: Control) -> None:
        self._store = control.store
        self._objects = control.objects
        self._hints = control.hints
        self._settings = control.settings

    def submit(
        self,
        source: str,
        *,
        output: str | Path | None,
        model: str | None,
        profile: str | None,
        key: str | None,
        force: bool,
        options: Mapping[str, Any],
    ) -> str:
        """Make a job of a JSON Lines file. Returns its id."""
        source = source_of(source)
        model = choose_model(self._store, model)
        job_id = new_id()
        target = _target(output)
        inputs = self._objects.for_inputs(job_id)
        if target:
            outputs = self._outputs_of(job_id, options, force=force)
            if is_uri(source) and is_uri(target):  # before anything is told of what is there
                inputs.check(source)
                outputs.check(target)
            refuse_same(source, target)
            if not self._is_own_output(key, options, target):
                refuse_existing(target, outputs, force=force)
        fields = self._resolved(profile, options)
        spec = _spec(model, target, key=key, force=force, source=source, **fields)
        with self._files_of(job_id) as (input_uri, room):
            pinned = pin(source, inputs, self._settings, input_uri, room.grow)
            spec = spec.model_copy(update={"input": pinned})
            return self._start(job_id, spec, options, stored_bytes=self._own_bytes(pinned))

    def submit_catalog(
        self,
        catalog: str,
        queries: str | Path | Iterable[str | Mapping[str, Any]],
        *,
        output: str | Path | None,
        format: OutputFormat,
        model: str | None,
        profile: str | None,
        key: str | None,
        force: bool,
        options: Mapping[str, Any],
    ) -> str:
        """Make a job of a catalog and its queries. Returns its id."""
        catalog = source_of(catalog)
        model = choose_model(self._store, model)
        job_id = new_id()
        target = _target(output, folder=True)
        inputs = self._objects.for_inputs(job_id)
        if target:
            outputs = self._outputs_of(job_id, options, force=force)
            if not self._is_own_output(key, options, target):
                refuse_existing_folder(target, outputs, force=force)
        documents = read_queries(queries, inputs)
        payload = dump_queries(documents)
        reference = {"queries": input_of(payload), "count": len(documents), "format": format}
        fields = self._resolved(profile, options)
        spec = _spec(
            model, target, key=key, force=force, source=catalog, catalog=reference, **fields
        )
        refuse_large_ranking(len(documents), spec.top_n)
        with self._files_of(job_id) as (input_uri, room):
            pinned = pin_catalog(catalog, inputs, self._settings, input_uri, room.grow)
            stored_bytes = self._own_bytes(pinned) + len(payload)
            room.grow(stored_bytes)
            self._objects.write(queries_uri(self._objects, job_id), payload)
            spec = spec.model_copy(update={"input": pinned})
            return self._start(job_id, spec, options, stored_bytes=stored_bytes)

    def _outputs_of(self, job_id: str, options: Mapping[str, Any], *, force: bool) -> Objects:
        """Where a job with these options may write. Raises NotAllowed for `force` over HTTP."""
        over_http = bool(options.get("over_http"))
        if force and over_http and not self._settings.http_force:
            raise NotAllowed(
                "an output that exists is not replaced over HTTP",
                hint="name another output, or have the operator set RERANK_HTTP_FORCE",
                path=("force",),
            )
        return self._objects.for_outputs(job_id, over_http=over_http)

    def _resolved(self, profile: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with those of the profile."""
        if options.get("adaptive_temperature") and options.get("temperature") is not None:
            raise UsageError(
                "a job with a temperature of its own cannot adapt its profile's",
                hint="leave out one of both, or make a profile that begins with this temperature",
            )
        return resolve(profile, options, self._settings.profiles)

    @contextmanager
    def _files_of(self, job_id: str) -> Iterator[tuple[str, Reservation]]:
        """Yields where a job's input may be kept, and the bytes reserved for it. When the block
        fails, every file written for the job is deleted, unless the job exists after all: only the
        reply may have been lost. What cannot be deleted now, or by a process that was killed, the
        monitor finds. Raises StorageFull."""
        with Reservation(self._store, self._settings, "jobs", job_id, 0) as room:
            try:
                yield job_uri(self._objects, job_id, "input.jsonl"), room
            except BaseException:
                with suppress(UsageError, Unavailable, *REDIS_ERRORS):  # the first error is raised
                    if not self._store.jobs.get_many([job_id]):
                        self._drop_files(job_id)
                raise

    def _own_bytes(self, pinned: InputRef) -> int:
        """Bytes of the input that the job keeps itself."""
        return pinned.size if pinned.uri.startswith(f"{self._objects.at('jobs')}/") else 0

    def _start(
        self, job_id: str, spec: JobSpec, options: Mapping[str, Any], *, stored_bytes: int
    ) -> str:
        """Create the job and hint its feed. Returns its id, or that of the job which already has
        its key; then the files written for this one are deleted."""
        calibrated = with_calibration(spec, options, self._store.statistics)
        created = self._store.jobs.create(
            job_id, calibrated, digest_of(spec), stored_bytes=stored_bytes
        )
        if created == job_id:
            self._store.jobs.wait_persisted()
            self._hints.feed(job_id)
        else:
            with suppress(UsageError, Unavailable):  # the monitor will
                self._drop_files(job_id)
        return created

    def _drop_files(self, job_id: str) -> None:
        self._objects.delete_tree(job_uri(self._objects, job_id))
        self._store.jobs.end_sweep(job_id)

    def _is_own_output(self, key: str | None, options: Mapping[str, Any], target: str) -> bool:
        """Whether a job with this key writes there: submitting it again is harmless."""
        job = self._store.jobs.with_key(key, options.get("owner", "")) if key else None
        own = (job.spec.output, job.spec.local_output) if job else ()
        return target in own or printable(target) in own


START_ONE = "a worker must be started for it"
"""What is to be done where nothing serves a model."""

# ---- the model ----------------------------------------------------------------------------------


def choose_model(store: Store, model: str | None, fleet: FleetSnapshot | None = None) -> str:
    """The model by the name that the fleet knows; without a name, the only one that it serves.

    Raises UnknownModel when that is not clear. A demonstration model is never chosen silently.
    """
    served = (fleet or store.snapshot(models=())).served_models
    return _only(served) if model is None else _named(store, model, served)


def _named(store: Store, model: str, served: Sequence[str]) -> str:
    name = canonical_model(model)
    if name in served or store.fleet.knows(name):
        return name
    models = f"it serves {', '.join(served)}" if served else "it has no worker"
    raise UnknownModel(
        f"this fleet never served the model {model!r}; {models}",
        hint=START_ONE,
        command=f"rerank worker --model {model}",
    )


def _only(served: Sequence[str]) -> str:
    if len(served) != 1:
        models = f"serves {', '.join(served)}" if served else "has no worker now"
        raise UnknownModel(f"this fleet {models}", hint="name the model", command="--model")
    if served[0] in POCKET_MODELS:
        raise UnknownModel(
            f"this fleet serves only the demonstration model {served[0]}",
            hint="name it if you mean it, or start a worker of another model",
            command=f"--model {served[0]}, or rerank worker --model M",
        )
    return served[0]


# ---- the record ---------------------------------------------------------------------------------


def path_or_uri(value: Any, what: str) -> str:
    """A path or URI as text. Raises UsageError for anything else, which `str` would make a name."""
    if not isinstance(value, str | os.PathLike):
        raise UsageError(
            f"{what} is of type {type(value).__name__}, expected a path or URI",
            hint="write the lines into a file, or use `rerank` for a few documents",
        )
    if not str(value):
        raise UsageError(f"{what} has no name", hint="name a file, a folder or a URI")
    return str(value)


def with_calibration(
    spec: JobSpec, options: Mapping[str, Any], statistics: StatisticsRecords
) -> JobSpec:
    """The spec at the temperature that earlier jobs gave its profile. A job with a temperature of
    its own neither takes nor changes that."""
    if options.get("temperature") is not None:
        return spec.model_copy(update={"adaptive_temperature": False})
    if spec.profile is None:
        return spec
    temperature = statistics.profile_temperature(spec.profile, spec.profile_temperature)
    return spec.model_copy(update={"temperature": temperature})


def input_of(payload: bytes) -> InputRef:
    """An input that is kept with the job itself, and identified by its bytes: a catalog's queries,
    or a small request."""
    return InputRef(uri="", size=len(payload), tag="", sha256=hashlib.sha256(payload).hexdigest())


def digest_of(spec: JobSpec) -> str:
    """What must be equal for two jobs to be the same: input and options, not where bytes lie.

    It is taken of the spec before its calibration: a temperature that earlier jobs changed makes no
    other job of the same key."""
    of_the_job = {"input", "key", "force", "over_http", "local_output", "name"}
    ignored = of_the_job | {"owner", "own_uploads_only", "profile_temperature"}
    fields = spec.model_dump(mode="json", exclude=ignored, exclude_defaults=True)
    pinned = spec.input
    content = pinned.sha256 or [pinned.uri, pinned.size, pinned.tag]
    text = json.dumps([fields, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _spec(
    model: str, target: str | None, *, key: str | None, force: bool, source: str, **options: Any
) -> JobSpec:
    """A job's spec, whose input is still to be pinned."""
    spec = make_spec(
        model=model,
        input=NO_INPUT,
        output=target if target and is_uri(target) else None,
        local_output=printable(target) if target and not is_uri(target) else None,
        key=key,
        force=force,
        **{"name": printable(Path(source).name), **options},
    )
    if spec.adaptive_temperature and spec.profile is None:
        raise UsageError(
            "adaptive_temperature changes a profile, and none was named",
            hint="name a profile, such as default",
            command="--profile default; `rerank profiles` lists them",
        )
    return spec


def local_target(output: str) -> str:
    """A local output as a job's record holds it."""
    return printable(absolute(output))


def absolute(output: str) -> str:
    """The absolute path of an output; that of a pipe or a device is not followed."""
    path = Path(output)
    return str(path.absolute() if is_stream(path) else path.resolve())


def _target(output: str | Path | None, *, folder: bool = False) -> str | None:
    """An output as the job's record holds it: a URI unchanged, that of a folder with a slash at its
    end; a path made absolute. Raises UsageError for an empty one."""
    if output is None:
        return None
    address = source_of(path_or_uri(output, "the output"))
    if not is_uri(address):
        return absolute(str(output))
    return f"{address.rstrip('/')}/" if folder else address
