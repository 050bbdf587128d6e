"""Airflow for DAG tests: a home of its own, and the DAG files as modules."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

DAGS = Path(__file__).parents[2] / "dags"
NAMES = ("ingest_catalog", "retrain", "refresh_index", "prune")


@pytest.fixture(scope="session")
def airflow_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an Airflow that knows nothing but our DAGs."""
    return {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(DAGS),
    }


@pytest.fixture(scope="session")
def dag_files(airflow_env: Mapping[str, str]) -> Iterator[dict[str, ModuleType]]:
    """The DAG files as modules, by name.

    `_AIRFLOW__AS_LIBRARY` keeps Airflow from taking over this process's logging and from opening a
    database: declaring a DAG needs neither.
    """
    environment = {**airflow_env, "_AIRFLOW__AS_LIBRARY": "1"}
    with pytest.MonkeyPatch.context() as patch:
        # For the import alone: left in the environment it would cripple every Airflow started later.
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(DAGS))
        modules = {name: importlib.import_module(name) for name in NAMES}
    sys.path.insert(0, str(DAGS))
    try:
        yield modules
    finally:
        sys.path.remove(str(DAGS))
