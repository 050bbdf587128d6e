"""Airflow's REST API, as far as the platform uses it."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from enclip.errors import EnclipError
from enclip.standalone.processes import direct, get_json

TIMEOUT_S = 30
ENDED = frozenset({"success", "failed"})


class AirflowError(EnclipError):
    """A request that Airflow refused, or a run that failed."""


@dataclass(frozen=True)
class TaskState:
    """A task instance as the scheduler sees it. `map_index` is -1 for a task that is not mapped."""

    task_id: str
    map_index: int
    state: str
    duration_s: float
    shown: str


class AirflowApi:
    """A client of one Airflow, logged in on first use."""

    def __init__(self, url: str, *, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._token = ""

    def healthy(self) -> bool:
        """Whether API server, database, scheduler and DAG processor are all at work."""
        try:
            health = get_json(f"{self.url}/api/v2/monitor/health")
            parts = [health[name]["status"] for name in ("metadatabase", "scheduler", "dag_processor")]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return parts == ["healthy"] * 3

    def ensure_pool(self, name: str, *, slots: int, description: str) -> None:
        """Create a pool; one that exists keeps the slots that a person may have given it."""
        try:
            self.call("GET", f"/pools/{name}")
        except AirflowError:
            self.call("POST", "/pools", {"name": name, "slots": slots, "description": description})

    def dag_ids(self) -> frozenset[str]:
        """DAGs that have been parsed."""
        return frozenset(dag["dag_id"] for dag in self.call("GET", "/dags?limit=100")["dags"])

    def import_errors(self) -> list[str]:
        """What went wrong in reading DAG files."""
        return [str(error["stack_trace"]) for error in self.call("GET", "/importErrors")["import_errors"]]

    def pause(self, dag_id: str, paused: bool) -> None:
        """Hold a DAG's runs, or let them go."""
        self.call("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": paused})

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run with a filled-in form; its id. Raises AirflowError with the schema's message for a bad form."""
        answer = self.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)})
        return str(answer["dag_run_id"])

    def queued_runs(self, dag_id: str) -> list[str]:
        """The runs of a DAG that have not begun."""
        runs = self.call("GET", f"/dags/{dag_id}/dagRuns?state=queued&limit=10")["dag_runs"]
        return [str(run["dag_run_id"]) for run in runs]

    def run_state(self, dag_id: str, dag_run_id: str) -> str:
        """queued, running, success or failed."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{_quoted(dag_run_id)}")["state"])

    def tasks(self, dag_id: str, dag_run_id: str) -> list[TaskState]:
        """The run's task instances, in the order in which they started; waiting ones last."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(dag_run_id)}/taskInstances?limit=200"
        found = self.call("GET", path)["task_instances"]
        found.sort(key=lambda task: (task["start_date"] or "~", task["map_index"]))
        return [
            TaskState(
                task_id=task["task_id"],
                map_index=task["map_index"],
                state=task["state"] or "",
                duration_s=float(task["duration"] or 0.0),
                shown=task["rendered_map_index"] or "",
            )
            for task in found
        ]

    def xcom(self, dag_id: str, dag_run_id: str, task_id: str) -> Any:
        """What a task returned, as JSON values; None where it returned nothing."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(dag_run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            value = self.call("GET", path)["value"]
        except AirflowError:
            return None
        return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value

    def log_tail(self, dag_id: str, dag_run_id: str, task: TaskState, *, lines: int = 15) -> str:
        """The last lines of a task's latest try."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(dag_run_id)}/taskInstances/{task.task_id}"
        tries = self.call("GET", f"{path}/{task.map_index}" if task.map_index >= 0 else path)["try_number"]
        answer = self.call("GET", f"{path}/logs/{tries}?map_index={task.map_index}&full_content=true")
        content = answer["content"]
        shown = [line.get("event", "") if isinstance(line, dict) else str(line) for line in content]
        return "\n".join(shown[-lines:])

    def approve(self, dag_id: str, dag_run_id: str, task_id: str, *, choice: str = "Approve") -> None:
        """Answer a task that waits for a person."""
        path = f"/dags/{dag_id}/dagRuns/{_quoted(dag_run_id)}/taskInstances/{task_id}/-1/hitlDetails"
        self.call("PATCH", path, {"chosen_options": [choice], "params_input": {}})

    def follow(self, dag_id: str, dag_run_id: str, *, poll_s: float = 1.0) -> Iterator[list[TaskState]]:
        """The run's tasks again and again until it has ended.

        Raises:
            AirflowError: the run failed; names the task and quotes the end of its log.
        """
        while True:
            state = self.run_state(dag_id, dag_run_id)
            tasks = self.tasks(dag_id, dag_run_id)
            yield tasks
            if state in ENDED:
                break
            time.sleep(poll_s)
        if state == "failed":
            failed = next((task for task in tasks if task.state == "failed"), None)
            detail = self.log_tail(dag_id, dag_run_id, failed) if failed else ""
            raise AirflowError(
                f"Run {dag_run_id} of {dag_id} failed{f' at {failed.task_id}' if failed else ''}.",
                remedy=f"Mend the cause and clear the task in Airflow, or start again. Its log ends:\n{detail}",
            )

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Any request below /api/v2; the answer's JSON. Raises AirflowError with what Airflow says."""
        for attempt in range(2):
            try:
                self._token = self._token or self._log_in()
                return self._send(method, f"/api/v2{path}", body)
            except urllib.error.HTTPError as error:
                if error.code == 401 and attempt == 0:
                    self._token = ""  # a token lives a day
                    continue
                raise AirflowError(
                    f"Airflow answers {error.code} to {method} {path}: {error.read(2000).decode(errors='replace')}"
                ) from error
            except OSError as error:
                raise AirflowError(f"Airflow at {self.url} does not answer: {error}.") from error
        raise AssertionError("unreachable")

    def _log_in(self) -> str:
        try:
            return str(self._send("POST", "/auth/token", self._login)["access_token"])
        except urllib.error.HTTPError as error:  # its body may repeat what was sent, the password too
            raise AirflowError(
                f"Airflow at {self.url} answers {error.code} to the login of {self._login['username']!r}.",
                remedy="Check user and password.",
            ) from None

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        with direct.open(request, timeout=TIMEOUT_S) as response:
            return json.load(response)


def _quoted(dag_run_id: str) -> str:
    return urllib.parse.quote(dag_run_id, safe="")
