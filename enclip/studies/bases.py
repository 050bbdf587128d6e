"""(h) Which base weights to start from?"""

from collections.abc import Mapping

from enclip.errors import TrainingError, WeightsError
from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch, best_of
from enclip.studies.material import Material, Values

FROM_NOTHING, OWN = "from nothing", "the setting's own base"
BASES: Mapping[str, str] = {
    FROM_NOTHING: "tiny",
    "CLIP": "ViT-B-32:openai",
    "SigLIP": "ViT-B-16-SigLIP:webli",
    # Published for another library; open_clip needs its own layout: convert it, and name it with local-dir:PATH.
    "FashionCLIP": "hf-hub:patrickjohncyh/fashion-clip",
    "Marqo-FashionCLIP": "hf-hub:Marqo/marqo-fashionCLIP",
    "Marqo-FashionSigLIP": "hf-hub:Marqo/marqo-fashionSigLIP",
}
BEST, UNTUNED, RELEASE = "best epoch", "not fine-tuned", "as a release"


def named(system: str, base: str) -> str:
    """A system that starts from a base."""
    return f"{base}, {system}"


def run(material: Material, *, bases: Mapping[str, str] = BASES) -> Findings:
    """One instance from each base, and from the setting's where it is another.

    A base whose weights cannot be had stands in the facts with the reason.
    """
    own = material.setting.base
    systems: dict[str, Values] = {}
    facts: dict[str, Fact] = {}
    for base, name in {**bases, **({} if own in bases.values() else {OWN: own})}.items():
        setting = material.setting.model_copy(update={"base": name})
        try:
            epochs = material.lab.train(setting.instance(material.world.number, 0))
        except (WeightsError, TrainingError) as error:
            facts[base] = {"weights": name, "left out, because": error.what.splitlines()[0]}
            continue
        best, offered = best_of(epochs), epochs[1:][-setting.offered :]
        members, weights = material.greedy(offered, most=setting.release.max_members)
        systems[named(BEST, base)] = material.ap(material.scores(best))
        systems[named(UNTUNED, base)] = material.ap(material.scores(epochs[0]))
        systems[named(RELEASE, base)] = material.searched(material.tuned(members, weights).searcher, members)
        facts[base] = {"weights": name, **_facts(material, best)}
    return Findings(systems, facts)


def _facts(material: Material, best: Epoch) -> Fact:
    return {
        "length of an embedding": material.embedded(best).image_ND.shape[1],
        "best epoch": best.epoch,
        "its mAP@10 on select": best.quality,
        "an epoch, s": best.seconds,
    }
