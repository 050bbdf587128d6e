"""What a study found in one fold."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from enclip.studies.material import Material, Values

Fact = Mapping[str, float | str]


@dataclass(frozen=True)
class Findings:
    """AP@10 of each system on each gate query, and facts by row of a table.

    The first system is what the others are compared with.
    """

    systems: Mapping[str, Values]
    facts: Mapping[str, Fact] = field(default_factory=dict)


def rows_of(material: Material, findings: Findings) -> pd.DataFrame:
    """A row per gate query of the fold: what it asks, and a column per system."""
    queries = material.world.gate.queries
    about = pd.DataFrame(
        {
            "fold": material.world.number,
            "query_id": [query.query_id for query in queries],
            "kind": [query.kind.value for query in queries],
            "category": [query.category for query in queries],
            "num_relevant": [len(query.relevant) for query in queries],
        }
    )
    return pd.concat(
        [about, pd.DataFrame({name: values.round(6) for name, values in findings.systems.items()})], axis=1
    )
