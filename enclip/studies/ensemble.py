"""(a) Does the release beat one model that was trained as long? The main study."""

from enclip.pipeline.gallery import without_bank
from enclip.retrieval.mix import WITHOUT_CLUSTERS
from enclip.studies.findings import Findings
from enclip.studies.material import Material
from enclip.studies.size import newest_first

BASELINE, RELEASE, BEST_MEMBER = "plain run, best epoch", "release", "release's best member"
MEMBER_AS_RELEASE = "release's best member, as a release"
ONE_TOWER = "release, one text tower"
ONE_VIEW = "release, one view of each picture"
WITHOUT_BANK, WITHOUT_ATTRIBUTES = "release without its bank", "release without attributes"
UNIFORM, GREEDY = "uniform, last five epochs", "greedy ensemble"
TRIED = (BASELINE, UNIFORM, GREEDY, ONE_VIEW, WITHOUT_BANK, WITHOUT_ATTRIBUTES, RELEASE)  # what categories are shown by


def run(material: Material) -> Findings:
    """The release and its parts beside the best epoch of one plain run with the same total of epochs."""
    members, weights = material.ensemble
    tuned = material.release.searcher
    best = max(range(len(members)), key=lambda row: members[row].quality)
    last = newest_first(material.instances)[:5]
    alone = material.tuned([members[best]], [1.0])
    single = material.tuned([material.best_epoch], [1.0])
    baseline = material.tuned([material.baseline], [1.0])
    one_view = material.tuned(members, weights, views=1).searcher
    systems = {
        BASELINE: material.ap(material.scores(material.baseline)),
        "plain run, best epoch, as a release": material.searched(baseline.searcher, [material.baseline]),
        "best epoch of the instances": material.ap(material.scores(material.best_epoch)),
        UNIFORM: material.ap(material.weighted(last, [1 / len(last)] * len(last))),
        GREEDY: material.ap(material.weighted(members, weights)),
        BEST_MEMBER: material.ap(material.scores(members[best])),
        MEMBER_AS_RELEASE: material.searched(alone.searcher, [members[best]]),
        "best epoch as a release": material.searched(single.searcher, [material.best_epoch]),
        ONE_VIEW: material.searched(one_view, members),
        WITHOUT_BANK: material.searched(without_bank(tuned), members),
        WITHOUT_ATTRIBUTES: material.searched(tuned.with_mix(attribute_weight=0), members),
        "release without clusters": material.searched(tuned.with_mix(**WITHOUT_CLUSTERS), members),
        ONE_TOWER: material.searched_by_student(tuned, members, weights),
        RELEASE: material.searched(tuned, members),
    }
    facts = {
        "release": {
            "members": ", ".join(
                f"instance {member.training.recipe.seed % 100} epoch {member.epoch} × {weight:.2f}"
                for member, weight in zip(members, weights, strict=True)
            ),
            **material.release.why,
        }
    }
    return Findings(systems, facts)
