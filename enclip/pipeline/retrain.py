"""The steps in turn, in one process: what the command line runs and a DAG spreads over tasks."""

from collections.abc import Callable

from enclip.pipeline.choose import choose
from enclip.pipeline.cluster import build
from enclip.pipeline.distil import distil_run
from enclip.pipeline.embed import embed_all
from enclip.pipeline.evaluate import evaluate_run
from enclip.pipeline.gate import decide
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote_run import promote_run
from enclip.pipeline.runs import GateStep, Record

Advance = Callable[[float, float, str], None]


class Outcome(Record):
    """How a run ended."""

    run_id: str
    release: int
    promoted: bool
    gate: GateStep
    summary: str


def finish(platform: Platform, run_id: str, *, on_progress: Advance | None = None) -> Outcome:
    """Everything after training: choose, distil, embed, cluster, evaluate, gate, promote."""
    advance = on_progress or _silent
    advance(0, 7, "choose")
    choose(platform, run_id)
    advance(1, 7, "distil")
    distil_run(platform, run_id)
    return finish_refresh(platform, run_id, on_progress=on_progress)


def finish_refresh(platform: Platform, run_id: str, *, on_progress: Advance | None = None) -> Outcome:
    """Everything after the choice of members, for a retraining and a refresh alike."""
    advance = on_progress or _silent
    advance(2, 7, "embed")
    embed_all(platform, run_id)
    advance(3, 7, "cluster")
    release = build(platform, run_id).release
    advance(4, 7, "evaluate")
    evaluate_run(platform, run_id)
    advance(5, 7, "gate")
    gate = decide(platform, run_id)
    advance(6, 7, "promote")
    promotion = promote_run(platform, run_id)
    advance(7, 7, "done")
    return Outcome(run_id=run_id, release=release, promoted=promotion.promoted, gate=gate, summary=promotion.summary)


def _silent(_completed: float, _total: float, _note: str) -> None:
    pass
