"""Where the seconds of a training step go, by operator: a Markdown table.

    python bench/studies/profile_training.py

Steps of `tiny` over drawn products, as the main job trains, on the CPU; the profiler's own cost is in them.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))
from worlds import drawn_training_data

from enclip.evaluation.markdown import markdown_table
from enclip.models.bases import load_base
from enclip.models.training import fit
from enclip.recipes import TrainRecipe

PRODUCTS, BATCH, ROWS = 1_420, 71, 12


def main() -> None:
    """Profile the second epoch; the first one warms up."""
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="enclip-profile-") as scratch:
        _, data = drawn_training_data(Path(scratch), num_products=PRODUCTS)
        epochs = fit(
            load_base("tiny", seed=0, device=cpu),
            data,
            TrainRecipe(epochs=2, batch_size=BATCH, device="cpu"),
            instance=0,
            device=cpu,
            state_dir=Path(scratch) / "state",
            validate=lambda _: {},
        )
        next(epochs), next(epochs)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            next(epochs)
    averages = seen.key_averages()
    total = sum(row.self_cpu_time_total for row in averages)
    slowest = sorted(averages, key=lambda row: -row.self_cpu_time_total)[:ROWS]
    print(
        markdown_table(
            ("operator", "share", "ms a step"),
            [
                (f"`{row.key}`", f"{row.self_cpu_time_total / total:.1%}", f"{row.self_cpu_time_total / 20_000:.1f}")
                for row in slowest
            ],
        )
    )


if __name__ == "__main__":
    main()
