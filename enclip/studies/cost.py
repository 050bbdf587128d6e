"""(i) What does quality cost: training, index, search, words?"""

import time
from collections.abc import Callable, Sequence

from enclip.models.checkpoint import load_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.pipeline.gallery import plain
from enclip.records import Split
from enclip.retrieval.searcher import Searcher
from enclip.studies.findings import Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material, Values

REPEATS = 5  # the fastest counts


def run(material: Material) -> Findings:
    """Releases beside the plain run: mAP@10, epochs trained, memory, and time over the plain run's.

    A search is that of embedded queries; encoding is of the words, by all members or by one tower for them.
    """
    systems: dict[str, Values] = {}
    facts: dict[str, dict[str, float | str]] = {}
    single = material.tuned([material.baseline], [1.0]).searcher
    unit = _searching(material, plain(single.member(0)), [material.baseline])
    words = _encoding(material, [material.baseline])
    budget = material.setting.epochs * material.setting.instances

    def add(name: str, found: Values, searcher: Searcher, members: list[Epoch], epochs: int, encoding: float) -> None:
        systems[name] = found
        facts[name] = {
            "members": len(members),
            "epochs trained": epochs,
            "index and vectors, MB": searcher.num_bytes / 2**20,
            "search": _searching(material, searcher, members) / unit,
            "encoding of words": encoding / words,
        }

    def add_release(name: str, searcher: Searcher, members: list[Epoch], epochs: int) -> None:
        add(name, material.searched(searcher, members), searcher, members, epochs, _encoding(material, members))

    add_release("plain run, best epoch", plain(single.member(0)), [material.baseline], budget)
    add_release("plain run, as a release", single, [material.baseline], budget)
    for count in range(2, len(material.instances) + 1):
        lasts = [epochs[-1] for epochs in material.instances[:count]]
        searcher = material.tuned(lasts, [1 / count] * count).searcher
        add_release(f"{count} instances, last epoch each", searcher, lasts, count * material.setting.epochs)
    (members, weights), release = material.ensemble, material.release.searcher
    add_release("release", release, members, budget)
    if len(members) > 1:
        student = material.student(members, weights)
        took = _fastest(lambda: student.encode_texts(material.world.gate.texts))
        found = material.searched_by_student(release, members, weights)
        add("release, one text tower", found, release, members, budget, took)
    return Findings(systems, facts)


def _searching(material: Material, searcher: Searcher, members: Sequence[Epoch]) -> float:
    queries = [material.world.of(Split.GATE, material.embedded(member))[0] for member in members]
    return _fastest(lambda: searcher.search(queries, k=10, texts=material.world.gate.texts))


def _encoding(material: Material, members: Sequence[Epoch]) -> float:
    encoders = [ClipEncoder(load_checkpoint(member.folder, device=material.lab.device)) for member in members]
    return _fastest(lambda: [encoder.encode_texts(material.world.gate.texts) for encoder in encoders])


def _fastest(act: Callable[[], object]) -> float:
    """Seconds of the fastest of some repeats."""
    took = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        act()
        took.append(time.perf_counter() - start)
    return min(took)
