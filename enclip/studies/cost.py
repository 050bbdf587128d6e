"""(i) What does quality cost: training, index, search?"""

import time

from enclip.records import Split
from enclip.retrieval.searcher import Searcher
from enclip.studies.findings import Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material

SEARCHES = 5  # of all gate queries; the fastest counts


def run(material: Material) -> Findings:
    """Ensembles of growing size beside the plain run: mAP@10, epochs trained, memory of the index, search time."""
    systems, facts = {}, {}
    plain = material.tuned([material.baseline], [1.0]).searcher
    one = plain.member(0)
    unit = _milliseconds(material, one, [material.baseline])
    budget = material.setting.epochs * material.setting.instances

    def add(name: str, searcher: Searcher, members: list[Epoch], epochs: int) -> None:
        systems[name] = material.searched(searcher, members)
        facts[name] = {
            "epochs trained": epochs,
            "index and vectors, MB": searcher.num_bytes / 2**20,
            "search, over one member's": _milliseconds(material, searcher, members) / unit,
        }

    add("plain run, best epoch", one.with_mix(calibration=0, exemplar_share=0), [material.baseline], budget)
    add("plain run, with bank and clusters", plain, [material.baseline], budget)
    for count in range(1, len(material.instances) + 1):
        lasts = [epochs[-1] for epochs in material.instances[:count]]
        searcher = material.tuned(lasts, [1 / count] * count).searcher
        add(f"{count} instance{'s' * (count > 1)}, last epoch each", searcher, lasts, count * material.setting.epochs)
    members, _ = material.ensemble
    add("release", material.release.searcher, members, budget)
    return Findings(systems, facts)


def _milliseconds(material: Material, searcher: Searcher, members: list[Epoch]) -> float:
    queries = [material.world.of(Split.GATE, material.embedded(member))[0] for member in members]
    texts = material.world.gate.texts
    took = []
    for _ in range(SEARCHES):
        start = time.perf_counter()
        searcher.search(queries, k=10, texts=texts)
        took.append((time.perf_counter() - start) / len(texts) * 1000)
    return min(took)
