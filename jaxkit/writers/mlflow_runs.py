"""MLflow: a run of ours as a run of its tracking store, a file or a server."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkit.configs import thaw
from jaxkit.writers import libraries
from jaxkit.writing import Tracked, Writer

# What one request may hold.
_METRICS, _PARAMS = 1_000, 100
_LONGEST_PARAM = 6_000


def mlflow(*, uri: str = "sqlite:///runs/mlflow.db", experiment: str = "jaxkit") -> Writer:
    """Writes into an MLflow tracking store: a SQLite file, or the server at `uri`.

    The config becomes parameters, the fingerprint, git commit and directory tags. A row is in one transaction,
    and the store is asked which came last before it is given more. A config that was changed on the way
    leaves the parameters what they were; the new values become tags "config.PATH".

    Raises:
        UsageError: mlflow-skinny, sqlalchemy or alembic is not installed.

    Example:
        >>> writer = mlflow(uri="http://127.0.0.1:5000", experiment="digits")
    """
    libraries.need("writers.mlflow", "mlflow", "sqlalchemy", "alembic")
    run: Tracked
    client: Any
    run_id: str
    waiting: list[Any] = []
    newest = 0

    def open_(tracked: Tracked) -> int | None:
        nonlocal run, client, run_id, newest
        libraries.keep_quiet()
        from mlflow import MlflowClient

        run, store = tracked, tracked.kept.get("store") or _absolute(uri)
        client = MlflowClient(tracking_uri=store)
        run_id = run.kept.get("run_id", "")
        if not run_id:
            place = _experiment(client, experiment, store)
            name = run.directory.absolute().name
            run_id = client.create_run(place, run_name=name, tags=dict(run.tags())).info.run_id
            run.keep(store=store, run_id=run_id)
        else:
            client.update_run(run_id, status="RUNNING")
        found = client.get_run(run_id).data
        _log_config(client, run_id, run.config, found.params)
        # The public `metrics` leaves the steps out, and a whole history would be long.
        newest = max((metric.step for metric in found._metric_objs), default=0)
        return newest

    def write(step: int, values: Mapping[str, float], wall: float) -> None:
        nonlocal newest
        from mlflow.entities import Metric

        if len(waiting) + len(values) > _METRICS:
            flush()
        newest = step
        waiting.extend(Metric(_key(name), value, int(wall * 1e3), step) for name, value in values.items())

    def flush() -> dict[str, Any]:
        for start in range(0, len(waiting), _METRICS):
            client.log_batch(run_id, metrics=waiting[start : start + _METRICS])
        waiting.clear()
        return {}

    def close() -> None:
        from mlflow.entities import RunTag

        client.log_batch(run_id, tags=[RunTag(name, text) for name, text in run.tags().items()])
        client.set_terminated(run_id, "FINISHED" if newest >= run.config["num_steps"] else "KILLED")

    return Writer(write, close, open_, flush)


def _absolute(uri: str) -> str:
    """A relative SQLite file, made absolute: the rest may be sent from another directory."""
    kind, _, path = uri.partition("sqlite:///")
    if kind or not path:
        return uri
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(path).absolute()}"


def _experiment(client: Any, name: str, store: str) -> str:
    from mlflow.exceptions import MlflowException

    # A server knows where artifacts go; beside a file they go into a directory beside it, not the current one.
    path = store.removeprefix("sqlite:///")
    location = None if path == store else (Path(path).parent / "mlartifacts").as_uri()
    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another run may have made it meanwhile
            time.sleep(0.1)
    return client.create_experiment(name, artifact_location=location)


def _log_config(client: Any, run_id: str, config: Mapping[str, Any], before: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    wanted = {_key(path): text for path, text in flat(thaw(config)).items()}
    params = [Param(path, text) for path, text in wanted.items() if path not in before]
    changed = [RunTag(f"config.{path}", text) for path, text in wanted.items() if before.get(path, text) != text]
    for start in range(0, len(params), _PARAMS):
        client.log_batch(run_id, params=params[start : start + _PARAMS])
    for start in range(0, len(changed), _PARAMS):
        client.log_batch(run_id, tags=changed[start : start + _PARAMS])


def flat(value: Any, path: str = "") -> dict[str, str]:
    """The leaves of a config as text, by path; a leaf that is longer than MLflow takes is cut.

    Example:
        >>> flat({"model": {"features": (16, 8), "call": "m.mlp"}})
        {'model.features': '(16, 8)', 'model.call': 'm.mlp'}
    """
    if isinstance(value, Mapping) and value:
        parts = [flat(item, f"{path}.{name}" if path else str(name)) for name, item in value.items()]
    elif isinstance(value, tuple | list) and any(isinstance(item, Mapping) for item in value):
        parts = [flat(item, f"{path}.{index}") for index, item in enumerate(value)]
    else:
        return {path: (value if isinstance(value, str) else repr(value))[:_LONGEST_PARAM]}
    return {name: text for part in parts for name, text in part.items()}


def _key(name: str) -> str:
    """A name with what MLflow does not take replaced: it must be a path, and lead nowhere else."""
    parts = re.sub(r"[^\w\-. :/]", "_", name)[:250].split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
