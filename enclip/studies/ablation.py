"""(d) What do fine-tuning, ensembling, the bank, attributes, clusters and product text each add?"""

from enclip.pipeline.gallery import plain, without_bank
from enclip.retrieval.text import NameIndex
from enclip.studies.findings import Findings
from enclip.studies.material import Material

HYBRID, VECTORS, BM25 = "names: hybrid", "names: vectors of pictures and names alone", "names: BM25 alone"
PULL = 0.15  # where select chose none: the least that is tried


def run(material: Material) -> Findings:
    """From the untrained base to a hybrid with names: a part more in each row. Names never stand with pictures."""
    members, weights = material.ensemble
    base = material.lab.train(material.setting.instance(material.world.number, 0))[0]
    release = material.release.searcher
    single = material.tuned([material.best_epoch], [1.0]).searcher
    hybrid = material.tuned(members, weights, names=True).searcher
    vectors = plain(hybrid).with_mix(bm25_weight=0)
    gate = material.world.gate
    names = NameIndex(material.world.products).search(gate.texts, k=10, allowed=material.world.products.split == "gate")
    systems = {
        "fine-tuned, best epoch": material.ap(material.scores(material.best_epoch)),
        "not fine-tuned": material.ap(material.scores(base)),
        "fine-tuned + bank": material.searched(single.with_mix(attribute_weight=0, pull=0), [material.best_epoch]),
        "fine-tuned + bank + attributes": material.searched(single.with_mix(pull=0), [material.best_epoch]),
        "ensemble": material.searched(plain(release), members),
        "ensemble + clusters": material.searched(plain(release).with_mix(pull=release.mix.pull or PULL), members),
        "ensemble + attributes": material.searched(without_bank(release).with_mix(pull=0), members),
        "ensemble + bank": material.searched(release.with_mix(attribute_weight=0, pull=0), members),
        "ensemble + bank + attributes": material.searched(release.with_mix(pull=0), members),
        "ensemble + bank + attributes + clusters": material.searched(
            release.with_mix(pull=release.mix.pull or PULL), members
        ),
        BM25: material.ap_of_rankings(names),
        VECTORS: material.searched(vectors, members),
        "names: vectors + bank + attributes": material.searched(hybrid.with_mix(bm25_weight=0, pull=0), members),
        HYBRID: material.searched(hybrid, members),
    }
    return Findings(systems, {"hybrid": {"name share": hybrid.mix.name_share, "BM25 weight": hybrid.mix.bm25_weight}})
