"""(i) What does quality cost: training, index, search, words?"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enclip.cores import available_cores
from enclip.models.checkpoint import load_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.pipeline.gallery import plain
from enclip.records import Split
from enclip.retrieval.mix import Mix
from enclip.retrieval.searcher import Searcher
from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material, Values

REPEATS = 5  # the fastest counts
PLAIN = "plain run, best epoch"
ABOUT = (
    "A search is that of embedded queries; encoding is of their words, by all members or by one text tower for them. "
    "Both are a query's share of all gate queries at once, the fastest of "
    f"{REPEATS} times. Training is what the epochs took when they were trained, their validation included, whatever "
    "else ran; one text tower's own is not in it. Milliseconds and minutes are of a machine with so many cores: only "
    "their ratios say much of another."
)
Act = Callable[[], object]


@dataclass(frozen=True)
class Priced:
    """A system, and what its cost is measured of.

    Attributes:
        trained: all epochs that were trained for it.
        encode: makes embeddings of all gate queries' words.
    """

    found: Values
    searcher: Searcher
    members: Sequence[Epoch]
    trained: Sequence[Epoch]
    encode: Act


def run(material: Material) -> Findings:
    """Releases beside the plain run: mAP@10, training, memory, and the time of a search.

    Systems are timed in turns, so that whatever else the machine does is done to all of them.
    """
    priced = _systems(material)
    searches = _fastest({name: _search(material, each) for name, each in priced.items()})
    encodings = _fastest({name: each.encode for name, each in priced.items()})
    per_query = 1000 / len(material.world.gate.texts)
    facts: dict[str, Fact] = {
        name: {
            **_means(material, each.found),
            "members": len(each.members),
            "views of each picture": 1 if name == PLAIN else max(material.views(member) for member in each.members),
            "epochs trained": len(each.trained),
            "training, min": sum(epoch.seconds for epoch in each.trained) / 60,
            "index and vectors, MB": each.searcher.num_bytes / 2**20,
            "search, ms": searches[name] * per_query,
            "search, times the plain run's": searches[name] / searches[PLAIN],
            "encoding of words, ms": encodings[name] * per_query,
            "encoding, times the plain run's": encodings[name] / encodings[PLAIN],
            "cores": available_cores(),
        }
        for name, each in priced.items()
    }
    return Findings({name: each.found for name, each in priced.items()}, facts)


def _systems(material: Material) -> dict[str, Priced]:
    encoders: dict[str, ClipEncoder] = {}

    def encode(members: Sequence[Epoch]) -> Act:
        for member in members:
            if str(member.folder) not in encoders:
                loaded = load_checkpoint(member.folder, device=material.lab.device)
                encoders[str(member.folder)] = ClipEncoder(loaded)
        mine = [encoders[str(member.folder)] for member in members]
        return lambda: [encoder.encode_texts(material.world.gate.texts) for encoder in mine]

    def release(searcher: Searcher, members: Sequence[Epoch], trained: Sequence[Epoch]) -> Priced:
        return Priced(material.searched(searcher, members), searcher, members, trained, encode(members))

    alone = [material.baseline]
    long = material.lab.train(material.setting.baseline(material.world.number))[1:]
    single = material.tuned(alone, [1.0]).searcher
    priced = {
        PLAIN: release(plain(material.builder(alone, [1.0], views=1)(1, Mix())), alone, long),
        "plain run, as a release": release(single, alone, long),
    }
    for count in range(2, len(material.instances) + 1):
        lasts = [epochs[-1] for epochs in material.instances[:count]]
        trained = [epoch for epochs in material.instances[:count] for epoch in epochs]
        searcher = material.tuned(lasts, [1 / count] * count).searcher
        priced[f"{count} instances, last epoch each"] = release(searcher, lasts, trained)
    (members, weights), searcher = material.ensemble, material.release.searcher
    trained = [epoch for epochs in material.instances for epoch in epochs]
    priced["release"] = release(searcher, members, trained)
    if len(members) > 1:
        student = material.student(members, weights)
        priced["release, one text tower"] = Priced(
            material.searched_by_student(searcher, members, weights),
            searcher,
            members,
            trained,
            lambda: student.encode_texts(material.world.gate.texts),
        )
    return priced


def _search(material: Material, each: Priced) -> Act:
    queries = [material.world.of(Split.GATE, material.embedded(member))[0] for member in each.members]
    return lambda: each.searcher.search(queries, k=10, texts=material.world.gate.texts)


def _means(material: Material, found: Values) -> Fact:
    """mAP@10 by kind of query, of the kinds that there are."""
    kind = np.array([query.kind.value for query in material.world.gate.queries])
    return {f"mAP@10, {name}": float(found[kind == name].mean()) for name in dict.fromkeys(kind.tolist())}


def _fastest(acts: Mapping[str, Act]) -> dict[str, float]:
    """Seconds of the fastest of some repeats of each, one of each in turn."""
    took: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(REPEATS):
        for name, act in acts.items():
            start = time.perf_counter()
            act()
            took[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in took.items()}
