"""(d) What do fine-tuning, ensembling, the bank, attributes, clusters and product text each add?"""

from collections.abc import Sequence

from enclip.errors import CatalogError
from enclip.pipeline.gallery import plain, without_bank
from enclip.records import Split
from enclip.retrieval.mix import WITHOUT_CLUSTERS, WITHOUT_WORDS_OF_NAMES, Mix
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NameIndex, named
from enclip.studies.findings import Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import NAME_SHARE, Material, Values

TUNED, UNTUNED, ENSEMBLE, VIEWED = "fine-tuned, best epoch", "not fine-tuned", "ensemble", "ensemble + views"
HYBRID, VECTORS, BM25 = "names: hybrid", "names: vectors of pictures and names alone", "names: BM25 alone"
UNREAD, UNSEEN = "names: hybrid, without attributes by name", "names: BM25 and attributes by name, no vectors"
PULL, FEEDBACK = 0.15, 0.25  # where select chose none: the least that is tried
OFF, ON = "without clusters", "with clusters"
NO_ENSEMBLE = "not fine-tuned, ensemble (there is none)"
UNTUNED_ONE, TUNED_ONE, TUNED_MANY = "not fine-tuned, one model", "fine-tuned, one model", "fine-tuned, ensemble"
CROSS = {
    "Pictures alone: fine-tuning × ensembling × clustering": {
        UNTUNED_ONE: {OFF: UNTUNED, ON: "not fine-tuned + clusters"},
        NO_ENSEMBLE: {},
        TUNED_ONE: {OFF: TUNED, ON: "fine-tuned + clusters"},
        TUNED_MANY: {OFF: ENSEMBLE, ON: "ensemble + clusters"},
    },
    "Pictures and names: fine-tuning × ensembling × clustering": {
        UNTUNED_ONE: {OFF: "names: not fine-tuned", ON: "names: not fine-tuned + clusters"},
        NO_ENSEMBLE: {},
        TUNED_ONE: {OFF: "names: fine-tuned", ON: "names: fine-tuned + clusters"},
        TUNED_MANY: {OFF: VECTORS, ON: "names: vectors + clusters"},
    },
}
PICTURES, NAMES = CROSS.values()
EFFECTS = {
    f"{part}, {protocol}": [(table[ours][on], table[theirs][off]) for ours, on, theirs, off in pairs]
    for protocol, table in (("pictures alone", PICTURES), ("pictures and names", NAMES))
    for part, pairs in {
        "fine-tuning": [(TUNED_ONE, on, UNTUNED_ONE, on) for on in (OFF, ON)],
        "ensembling": [(TUNED_MANY, on, TUNED_ONE, on) for on in (OFF, ON)],
        # Where nothing was learnt there is next to nothing to add to.
        "clustering, fine-tuned": [(row, ON, row, OFF) for row in (TUNED_ONE, TUNED_MANY)],
    }.items()
} | {
    "product text, fine-tuned": [
        (NAMES[row][on], PICTURES[row][on]) for row in (TUNED_ONE, TUNED_MANY) for on in (OFF, ON)
    ]
}
ABOUT = (
    "Pictures alone and names are two protocols; names stand in a table of their own, against BM25. The last tables "
    "cross some of the rows: all of them by plain cosines of one view of each picture, without bank, attributes and "
    "BM25, the clusters' pull of products the same for all queries and in all of them, as the paper has it. What is "
    "not fine-tuned has no ensemble: an ensemble's members are epochs of trainings, and before the first of them there "
    "is one model, the base."
)


def run(material: Material) -> Findings:
    """From the untrained base to a hybrid with names: a part more in each row, and the four parts of the paper and
    its gallery crossed. Names never stand with pictures.

    Raises:
        CatalogError: no product has a name.
    """
    if not named(material.world.products).any():
        raise CatalogError("No product of the catalog has a name.", remedy="Map a column with --map name=COLUMN.")
    members, weights = material.ensemble
    base = material.lab.train(material.setting.instance(material.world.number, 0))[0]
    release = material.release.searcher
    best = [material.best_epoch]
    single = material.tuned(best, [1.0]).searcher
    hybrid = material.tuned(members, weights, names=True).searcher
    pull = release.mix.pull or PULL
    gate = material.world.gate
    in_gate = material.allowed(Split.GATE)
    names = NameIndex(material.world.products).search(gate.texts, k=10, allowed=in_gate)
    asked = [material.world.of(Split.GATE, material.embedded(member))[0] for member in members]
    systems = {
        TUNED: material.ap(material.scores(material.best_epoch)),
        UNTUNED: material.ap(material.scores(base)),
        "not fine-tuned + clusters": _cosines(material, [base], [1.0], pull=pull),
        "fine-tuned + clusters": _cosines(material, best, [1.0], pull=pull),
        "fine-tuned + views": material.searched(plain(single), best),
        "fine-tuned + views + bank": material.searched(single.with_mix(attribute_weight=0, **WITHOUT_CLUSTERS), best),
        "fine-tuned + views + bank + attributes": material.searched(single.with_mix(**WITHOUT_CLUSTERS), best),
        ENSEMBLE: _cosines(material, members, weights),
        "ensemble + clusters": _cosines(material, members, weights, pull=pull),
        VIEWED: material.searched(plain(release), members),
        "ensemble + views + attributes": material.searched(without_bank(release).with_mix(**WITHOUT_CLUSTERS), members),
        "ensemble + views + bank": material.searched(release.with_mix(attribute_weight=0, **WITHOUT_CLUSTERS), members),
        "ensemble + views + bank + attributes": material.searched(release.with_mix(**WITHOUT_CLUSTERS), members),
        "ensemble + views + bank + attributes + clusters": material.searched(_turned(release), members),
        BM25: material.ap_of_rankings(names),
        "names: not fine-tuned": _cosines(material, [base], [1.0], names=True),
        "names: not fine-tuned + clusters": _cosines(material, [base], [1.0], pull=pull, names=True),
        "names: fine-tuned": _cosines(material, best, [1.0], names=True),
        "names: fine-tuned + clusters": _cosines(material, best, [1.0], pull=pull, names=True),
        VECTORS: _cosines(material, members, weights, names=True),
        "names: vectors + clusters": _cosines(material, members, weights, pull=pull, names=True),
        "names: vectors + views + bank + attributes": material.searched(
            hybrid.with_mix(**WITHOUT_WORDS_OF_NAMES, **WITHOUT_CLUSTERS), members
        ),
        UNSEEN: material.ap_of_rankings(hybrid.by_words(asked, k=10, texts=gate.texts, allowed=in_gate)),
        UNREAD: material.searched(hybrid.with_mix(name_attribute_weight=0), members),
        HYBRID: material.searched(hybrid, members),
    }
    facts = {
        "hybrid": {
            "name share": hybrid.mix.name_share,
            "weight of attributes": hybrid.mix.attribute_weight,
            "BM25 weight": hybrid.mix.bm25_weight,
            "weight of attributes by name": hybrid.mix.name_attribute_weight,
        },
        "crossed": {"name share": NAME_SHARE, "clusters": release.clusters.count, "pull": pull},
    }
    return Findings(systems, facts)


def _turned(searcher: Searcher) -> Searcher:
    """The same with clusters in the score: as *select* chose, and where it chose none, fed back."""
    mix = searcher.mix
    return searcher if mix.pull or mix.feedback else searcher.with_mix(feedback=FEEDBACK)


def _cosines(
    material: Material, members: Sequence[Epoch], weights: Sequence[float], *, pull: float = 0.0, names: bool = False
) -> Values:
    """Plain cosines of one view, with as many clusters as the release has, of the members' own embeddings."""
    build = material.builder(members, weights, names=names, views=1)
    mix = Mix(pull=pull, name_share=NAME_SHARE if names else 0.0)
    return material.searched(build(material.release.searcher.clusters.count, mix), members)
