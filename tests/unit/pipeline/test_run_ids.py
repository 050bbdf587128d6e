"""What a run may be called."""

from pathlib import Path

import pytest

from enclip.blobs import open_blobs
from enclip.errors import ConfigError
from enclip.pipeline.runs import RunFolder, new_run_id


@pytest.mark.parametrize("run_id", ["last", "", "../up", "a b"])
def test_an_id_that_the_store_cannot_take_is_refused(run_id: str, tmp_path: Path) -> None:
    """`runs/last` says which run was the last: a run of that name would lie over it."""
    with pytest.raises(ConfigError, match="not usable"):
        RunFolder(open_blobs(str(tmp_path)), run_id)


def test_ids_sort_by_time_to_the_millisecond() -> None:
    ids = [new_run_id("retrain") for _ in range(3)]
    assert ids == sorted(ids) and len(ids[0]) == len("retrain-20250101T000000000")
