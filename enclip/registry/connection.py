"""One connection to MLflow: the client, the experiment, and its failures in our words."""

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from enclip.errors import EnclipError, RegistryError, first_line
from enclip.registry.names import EXPERIMENT

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# MLflow takes these from the environment alone, at import; what the user has set stays.
_MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that hangs fails in a minute and a half, not in MLflow's quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    _TIMEOUT: "30",
}
UPLOAD_TIMEOUT_S = 900
_DEFAULT_URI = threading.Lock()


class Connection:
    """A client of the tracking server and registry at one URI. Opened on first use; safe across threads."""

    def __init__(self, tracking_uri: str, artifact_root: Path | None) -> None:
        self.tracking_uri = tracking_uri
        self._artifact_root = artifact_root

    @cached_property
    def client(self) -> Any:
        """The `MlflowClient`. A new SQLite file gets its tables under a lock, since MLflow takes none."""
        for name, value in _MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        import mlflow
        from mlflow import MlflowClient

        # MLflow's own configuration resets the level of its logger when it is imported.
        logging.getLogger(mlflow.__name__).setLevel(logging.ERROR)
        # It logs a traceback of what it raises; whoever asked is told in one message.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        with self.asking("open"), self._making():
            client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
            client.get_experiment_by_name(EXPERIMENT)
            return client

    @cached_property
    def experiment_id(self) -> str:
        """The experiment that holds all runs and models; made on first use."""
        from mlflow.exceptions import MlflowException

        with self.asking(f"open experiment {EXPERIMENT!r} of"):
            if found := self.client.get_experiment_by_name(EXPERIMENT):
                if found.lifecycle_stage != "active":
                    self.client.restore_experiment(found.experiment_id)
                return str(found.experiment_id)
            location = None
            if self._artifact_root is not None:
                self._artifact_root.mkdir(parents=True, exist_ok=True)
                location = self._artifact_root.absolute().as_uri()
            try:
                return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))
            except MlflowException:  # another process made it meanwhile
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
                return str(found.experiment_id)

    def ensure_registered_model(self, name: str, description: str) -> None:
        """Make the registered model unless it is there."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name, description=description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def register(self, name: str, **version: Any) -> Any:
        """Make a version of a registered model; it is made READY at once.

        MLflow's SQL registry resolves `models:/m-…` through the process-wide tracking URI, not the
        client's own, so that one is ours for this call and then what it was.
        """
        if self.tracking_uri.startswith(("http://", "https://")):
            return self.client.create_model_version(name, **version)
        import mlflow

        with _DEFAULT_URI:
            before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
            mlflow.set_tracking_uri(self.tracking_uri)
            try:
                return self.client.create_model_version(name, **version)
            finally:
                mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None: unset again

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """More patience: a server that passes files on to a store answers when the store has them."""
        before = os.environ.get(_TIMEOUT)
        os.environ[_TIMEOUT] = str(max(UPLOAD_TIMEOUT_S, int(before or 0)))
        try:
            yield
        finally:
            os.environ.pop(_TIMEOUT) if before is None else os.environ.update({_TIMEOUT: before})

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn what MLflow and its stores raise into a RegistryError that names the registry."""
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except EnclipError:
            raise
        except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
            cause = _cause(error)
            reason = first_line(cause).replace(self.tracking_uri, self.shown_uri)
            raise RegistryError(
                f"Cannot {what} the registry at {self.shown_uri}: {reason}.",
                remedy=_remedy(cause, reason),
            ) from error

    @property
    def shown_uri(self) -> str:
        """The tracking URI without a password."""
        scheme, separator, rest = self.tracking_uri.partition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest else self.tracking_uri

    @contextmanager
    def _making(self) -> Iterator[None]:
        if not self.tracking_uri.startswith("sqlite:///"):
            yield
            return
        path = Path(self.tracking_uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{path}.migrate", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """Everything a paged search of MLflow finds."""
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def _cause(error: BaseException) -> BaseException:
    """What the database said, where that is behind it: MLflow's own first line may be about its session."""
    from sqlalchemy.exc import OperationalError

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OperationalError) and link.orig is not None:
            return link.orig
        link = link.__cause__ or link.__context__
    return error


def _remedy(error: BaseException, reason: str) -> str:
    """What to try, where the system's number or SQLite's words say what is wrong."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in reason or "disk I/O error" in reason:
        return "Free space on its disk, and run again."
    if number in (errno.EROFS, errno.EACCES) or "readonly" in reason:
        return "Make its files and folders writable, and run again."
    if "is locked" in reason:
        return "Wait for the process that writes to it, or end it, and run again."
    return "Check MLFLOW_TRACKING_URI, and that the server runs and allows this host."
