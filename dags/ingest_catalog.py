"""### Take in the catalog

Reads a source (a folder with `styles.csv` and `images/`, `s3://bucket/prefix`, or `hf:NAME`) and takes in
what is new or changed, by content. Rows that cannot be used are set aside with reasons and do not stop
the rest.

**When:** nightly from the source that `ENCLIP_CATALOG_SOURCE` names (none: the run ends as skipped), and
by hand from any source, for some categories if you like.

**Mode:** *upsert* never infers that a product is gone. *full* does, within the source and the
categories, and refuses if more than 20% would vanish, unless told that this is right.

If something changed, the asset `enclip-catalog` gets an event, and `refresh_index` and `retrain` look at
what there is to do.
"""

from typing import Any

from _defaults import CATALOG, TAGS, TASK_DEFAULTS, at, open_platform, skip
from airflow.sdk import DAG, Param, get_current_context, task

SHOWN_REJECTIONS = 20

PARAMS = {
    "source": Param(
        None,
        type=["null", "string"],
        title="Source",
        description="A folder, s3://bucket/prefix or hf:NAME; empty: ENCLIP_CATALOG_SOURCE.",
    ),
    "categories": Param(
        None,
        type=["array", "null"],
        items={"type": "string", "minLength": 1},
        title="Categories",
        description="Take in only these, one a line; none: all.",
    ),
    "mapping": Param(
        None,
        type=["null", "object"],
        title="Columns",
        description='Other column names as field → column, such as {"name": "title", "image": "file"}.',
        additionalProperties={"type": "string"},
    ),
    "mode": Param(
        "upsert",
        type="string",
        enum=["upsert", "full"],
        title="Mode",
        description="full: what the source no longer has is withdrawn, within its source and categories.",
    ),
    "allow_vanish": Param(
        False, type="boolean", title="Allow vanishing", description="Let mode full withdraw more than 20%."
    ),
}


@task
def ingest() -> dict[str, Any]:
    """Take in what is new or changed; the counts, and the first rows that were set aside."""
    from dataclasses import asdict

    from enclip.pipeline.ingest import ingest_source

    params = get_current_context()["params"]
    platform = open_platform()
    source = params["source"] or platform.settings.catalog_source
    if not source:
        skip("No source: set ENCLIP_CATALOG_SOURCE, or trigger with one.")
    report = ingest_source(
        platform,
        source,
        mapping=params["mapping"],
        mode=params["mode"],
        categories=tuple(params["categories"] or ()),
        allow_vanish=params["allow_vanish"],
    )
    return {**asdict(report), "rejections": [asdict(row) for row in report.rejections[:SHOWN_REJECTIONS]]}


@task.short_circuit
def changed(report: dict[str, Any]) -> bool:
    """Stop here if the catalog is as it was."""
    return bool(report["accepted"] or report["gone"])


@task(outlets=[CATALOG])
def announce(report: dict[str, Any]) -> None:
    """Send the event that `refresh_index` and `retrain` wait for, with the counts."""
    event = get_current_context()["outlet_events"][CATALOG]
    event.extra = {name: report[name] for name in ("accepted", "unchanged", "rejected", "gone")}


with DAG(
    dag_id="ingest_catalog",
    description="Take in what is new or changed in a catalog.",
    doc_md=__doc__,
    schedule=at("0 1 * * *"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params=PARAMS,
    tags=TAGS,
) as dag:
    report = ingest()
    changed(report) >> announce(report)  # type: ignore[arg-type]
