"""(l) How are attribute heads best fitted?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from enclip.pipeline.heads import ensemble_heads
from enclip.records import Split
from enclip.retrieval.heads import INVERSE_PENALTIES, PAIR, PAIRED, AttributeHeads, known_rows, summed
from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material, Values

WITHOUT = "release without attributes"
SUMMED, SUMMED_CHOSEN = "each member's own, summed", "each member's own, summed, penalties chosen"
JOINT, JOINT_CHOSEN = "of all members side by side", "of all members side by side, penalties chosen"
PAIRED_TOO = "side by side, penalties chosen, gender and type together"
COLOURED = "the same, and the pictures' colours"
RELEASE = "the same, fitted on select's pictures too"
ABOUT = (
    "Heads are logistic regressions of attributes on the pictures of the train split; penalties are chosen by the "
    f"log-loss of *select*'s pictures, else {INVERSE_PENALTIES[0]} is the inverse one of all. Those that are fitted on "
    "*select* too have the weight that *select* chose for those that are not. The last tables have the "
    "mean log-loss of *gate*'s pictures, in nats: what heads make of a picture's own value, less is better. "
    "“Gender and type” is that of both at once."
)


def run(material: Material) -> Findings:
    """The release with heads that were fitted in each way, and without any."""
    members, weights = material.ensemble
    release = material.release.searcher
    systems: dict[str, Values] = {WITHOUT: material.searched(release.with_mix(attribute_weight=0), members)}
    facts: dict[str, Fact] = {}
    for name, heads in _ways(material, members, weights).items():
        searcher = material.tuned(members, weights, heads=heads).searcher
        systems[name] = material.searched(searcher, members)
        facts[name] = {"weight in the score": searcher.mix.attribute_weight, **log_losses(material, heads, members)}
    if release.heads is not None:
        systems[RELEASE] = material.searched(release, members)
        facts[RELEASE] = {
            "weight in the score": release.mix.attribute_weight,
            **log_losses(material, release.heads, members),
        }
    return Findings(systems, facts)


def _ways(material: Material, members: Sequence[Epoch], weights: Sequence[float]) -> Mapping[str, AttributeHeads]:
    """The heads by how they were fitted; none where the catalog has no attributes."""
    views = [material.views(member) for member in members]
    whole = material.lab.heads(members, weights, views=views)
    if whole is None:
        return {}
    strongest = dict.fromkeys(whole.judged.fields, INVERSE_PENALTIES[0])
    every = material.world.values
    single = {field: known for field, known in every.items() if field != PAIR}
    blocks = [material.lab.pictures(member, views=count) for member, count in zip(members, views, strict=True)]
    sharpnesses = [material.embedded(member).sharpness for member in members]
    held_back, chosen, paired = (
        ensemble_heads(material.world.products, blocks, weights, sharpnesses, values, penalties=penalties)
        for values, penalties in ((single, strongest), (single, None), (every, None))
    )
    assert held_back is not None and chosen is not None and paired is not None
    return {
        SUMMED: replace(held_back.judged, joint=summed(held_back.judged.own, weights)),
        SUMMED_CHOSEN: replace(chosen.judged, joint=summed(chosen.judged.own, weights)),
        JOINT: held_back.judged,
        JOINT_CHOSEN: chosen.judged,
        PAIRED_TOO: paired.judged,
        COLOURED: whole.judged,
    }


def log_losses(material: Material, heads: AttributeHeads, members: Sequence[Epoch]) -> Fact:
    """By field the mean of what gate's pictures lack in log-probability of their own value, in nats."""
    rows = np.flatnonzero(material.allowed(Split.GATE))
    products = material.world.products.take(rows)
    pictures = [material.lab.pictures(member, views=material.views(member))[rows] for member in members]
    if heads.num_colours:
        pictures.append(material.lab.colours(members[0])[rows])
    log_NV = heads.log_probabilities(np.concatenate(pictures, axis=1).astype(np.float32))
    own = {}
    for start, field, values in zip(heads.starts, heads.fields, heads.values, strict=True):
        column_N = known_rows(products, field, values)
        own[field] = np.where(column_N < 0, np.nan, log_NV[np.arange(len(rows)), start + column_N])
    if set(PAIRED) <= own.keys() and PAIR not in own:
        own[PAIR] = own[PAIRED[0]] + own[PAIRED[1]]
    return {f"log-loss, {field}": -float(np.nanmean(values)) for field, values in own.items()}
