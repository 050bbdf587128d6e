"""A DAG run in the terminal, task by task, until it has ended."""

import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from enclip.standalone.airflow_api import AirflowApi, TaskState
from enclip.standalone.processes import Processes

MARKS = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "upstream_failed": "[red]✗[/]",
    "skipped": "[dim]·[/]",
    "running": "[cyan]▶[/]",
    "up_for_retry": "[yellow]↻[/]",
    "awaiting_input": "[yellow]?[/]",
}
OVER = frozenset({"success", "failed", "skipped", "upstream_failed"})


def run_dag(
    api: AirflowApi, processes: Processes, console: Console, *, dag_id: str, conf: Mapping[str, Any], title: str
) -> str:
    """Start a run of a paused DAG, show it, wait for its end, and pause the DAG again; the run's id.

    Only this run goes on: while a DAG is paused, neither its schedule nor an asset's event starts one.

    Raises:
        AirflowError: the form was refused, or the run failed.
        ServiceError: a service of the platform ended meanwhile.
    """
    dag_run_id = api.trigger(dag_id, conf)
    api.pause(dag_id, False)
    start = time.monotonic()
    shown = _Shown(title, console)
    asked = False
    try:
        with shown:
            for tasks in api.follow(dag_id, dag_run_id):
                processes.check()
                shown.update(tasks)
                if not asked and any(task.state == "awaiting_input" for task in tasks):
                    asked = True
                    where = f"{api.url}/dags/{dag_id}/runs/{urllib.parse.quote(dag_run_id, safe='')}/required_actions"
                    console.print(f"  [yellow]?[/] The gates ask a person; answer at {where}", soft_wrap=True)
    finally:
        api.pause(dag_id, True)
    console.print(f"[green]✓[/] {escape(title)} [dim]({time.monotonic() - start:.0f} s)[/]")
    return dag_run_id


class _Shown:
    """In a terminal a table that changes in place; elsewhere one line for each task that is over."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._since: dict[tuple[str, int], float] = {}
        self._told: set[tuple[str, int]] = set()

    def __enter__(self) -> None:
        if self._live:
            self._live.start()
        else:
            self._console.print(f"{escape(self._title)} …")

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, tasks: list[TaskState]) -> None:
        """Show the tasks as they are now."""
        if self._live:
            self._live.update(self._table(tasks))
            return
        for task in tasks:
            key = (task.task_id, task.map_index)
            if task.state in OVER and key not in self._told:
                self._told.add(key)
                if task.state != "skipped":
                    self._console.print(f"  {MARKS[task.state]} {escape(_name(task))} [dim]{task.duration_s:.1f} s[/]")

    def _table(self, tasks: list[TaskState]) -> Table:
        table = Table(title=escape(self._title), title_justify="left", box=None, show_header=False, padding=(0, 1))
        for task in tasks:
            state = task.state or "waits"
            table.add_row(MARKS.get(state, " "), escape(_name(task)), state, f"{self._seconds(task):.0f} s")
        return table

    def _seconds(self, task: TaskState) -> float:
        if task.state != "running":
            return task.duration_s
        return time.monotonic() - self._since.setdefault((task.task_id, task.map_index), time.monotonic())


def _name(task: TaskState) -> str:
    return f"{task.task_id} {task.shown or task.map_index}" if task.map_index >= 0 else task.task_id
