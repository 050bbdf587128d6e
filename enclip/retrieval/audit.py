"""What looks wrong in a catalog: labels that the pictures around a product contradict, and near-duplicates.

Nothing is changed here or by anyone who calls this: the lists are for people.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from enclip.errors import ReleaseError
from enclip.records import Floats, Products, Strings
from enclip.retrieval.clusters import Clusters
from enclip.retrieval.duplicates import DuplicateGroup, describe_duplicates, find_duplicates
from enclip.retrieval.neighbours import Looks, Neighbours

SUSPECTS = "suspects.json"
LABELS = ("article_type", "gender", "base_colour")
MAX_NEIGHBOURS = 40
SAME_PICTURE_VOTES = 5.0  # say of the other products with the very same picture, in neighbours
SMOOTHING = 0.05
CONFUSION = 1 / 3  # how much of the usual confusion of two labels is taken into account
MIN_SUPPORT = 0.4
MIN_CONFIDENCE = 0.9  # with planted errors, a third of such a list; see `find_suspects`
SHOWN_NEIGHBOURS = 3
BLOCK_ROWS = 4_096

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that the product's neighbours contradict.

    Attributes:
        attribute: article_type, gender or base_colour.
        given, proposed: what the catalog says, and what the pictures around say.
        confidence: 0.5 to 1, see `find_suspects`; it ranks, and is no probability.
        support: the proposed label's share of the vote; `given_support` that of the given one.
        cluster, cluster_size, purity: the product's cluster, and the share of its commonest label there.
        evidence: ids of the nearest products with the proposed label.
    """

    product_id: str
    name: str
    attribute: str
    given: str
    proposed: str
    confidence: float
    support: float
    given_support: float
    cluster: int
    cluster_size: int
    purity: float
    evidence: tuple[str, ...]


_SUSPECTS = TypeAdapter(tuple[Suspect, ...])


@dataclass(frozen=True, slots=True)
class Audit:
    """What a person should look at: the surest first."""

    suspects: tuple[Suspect, ...]
    duplicates: tuple[DuplicateGroup, ...]


def audit(products: Products, looks: Looks, clusters: Clusters, *, labels: tuple[str, ...] = LABELS) -> Audit:
    """Suspects and near-duplicates among N products.

    Time grows with the square of the distinct pictures up to 200,000 and almost linearly above; beside the
    vectors, memory is a few hundred bytes a product.
    """
    neighbours = Neighbours.find(products, looks.vector_NP, clusters, k=neighbours_for(len(products)))
    return Audit(
        suspects=all_suspects(products, neighbours, clusters, labels=labels),
        duplicates=describe_duplicates(find_duplicates(looks, neighbours), looks, products, clusters.assignment_N),
    )


def all_suspects(
    products: Products, neighbours: Neighbours, clusters: Clusters, *, labels: tuple[str, ...] = LABELS
) -> tuple[Suspect, ...]:
    """The suspects of all labels, the surest first; `neighbours_for(N)` neighbours vote."""
    suspects = [suspect for name in labels for suspect in find_suspects(products, neighbours, clusters, attribute=name)]
    return tuple(sorted(suspects, key=lambda one: (-one.confidence, one.product_id, one.attribute)))


def save_suspects(suspects: tuple[Suspect, ...], path: Path) -> None:
    """Write them as JSON, in order."""
    path.write_bytes(_SUSPECTS.dump_json(suspects))


def load_suspects(path: Path) -> tuple[Suspect, ...]:
    """Read what `save_suspects` wrote. Raises ReleaseError where it is missing or damaged."""
    try:
        return _SUSPECTS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ReleaseError(f"Release file {path} cannot be read.", remedy="Fetch the release again.") from error


def neighbours_for(num_products: int) -> int:
    """Neighbours that vote: half the square root of the catalog, 5 to 40; a small shop has few of a kind."""
    return int(np.clip(round(num_products**0.5 / 2), 5, MAX_NEIGHBOURS))


def find_suspects(
    products: Products,
    neighbours: Neighbours,
    clusters: Clusters,
    *,
    attribute: str,
    min_support: float = MIN_SUPPORT,
    min_confidence: float = MIN_CONFIDENCE,
) -> list[Suspect]:
    """Products whose label in one attribute is out of place, the surest first.

    The other products vote, never the product itself: its nearest pictures with weights that fall with
    the distance, and other products with the same picture with five votes together.
    With p the shares of the vote, g the given and q the best other label, the confidence is c / (1 + c) of

        c = p(q) / p(g) · (p̄(g | g) / p̄(q | g))^⅓,

    p̄(· | g) being the mean shares over the other products labelled g, all smoothed by 0.05. The root does what
    confident learning (Northcutt et al., arXiv 1911.00068) has class thresholds and the joint of labels for:
    Tops among Tshirts are everyday, a Watch among them is not, and a label so rare that no neighbour can share
    it is not accused. Without it 0.73 instead of 0.95 of the first 50 were planted errors (9,468 real
    products, 2% of articleTypes swapped). The cluster is named with its purity, as evidence for people, and
    has no vote: with five votes more it found as many there, and fewer in drawn shops of 400 (0.78
    instead of 0.81), since a cluster is coarser than the pictures next to one.
    Products without the label are neither judged nor heard.
    """
    label_N: Strings = getattr(products, attribute)
    rows = np.flatnonzero(label_N != "")
    if len(rows) < 2:
        return []
    names, known = np.unique(label_N[rows].astype(str), return_inverse=True)
    code_N = np.full(len(products), -1, np.int64)
    code_N[rows] = known
    vote = _vote(code_N, len(names), neighbours)
    sure = (vote.proposed_share_N >= min_support) & (vote.confidence_N >= min_confidence) & (code_N >= 0)
    found = np.flatnonzero(sure)
    ordered = found[np.lexsort((found, -vote.confidence_N[found]))]
    sizes, purities = _purity(code_N, len(names), clusters)
    return [
        Suspect(
            product_id=str(products.product_id[row]),
            name=str(products.name[row]),
            attribute=attribute,
            given=str(names[code_N[row]]),
            proposed=str(names[vote.proposed_N[row]]),
            confidence=round(float(vote.confidence_N[row]), 4),
            support=round(float(vote.proposed_share_N[row]), 4),
            given_support=round(float(vote.given_share_N[row]), 4),
            cluster=int(clusters.assignment_N[row]),
            cluster_size=int(sizes[clusters.assignment_N[row]]),
            purity=round(float(purities[clusters.assignment_N[row]]), 4),
            evidence=_evidence(int(row), int(vote.proposed_N[row]), code_N, neighbours, products),
        )
        for row in ordered
    ]


@dataclass(frozen=True, eq=False)
class _Vote:
    proposed_N: Codes
    proposed_share_N: Floats
    given_share_N: Floats
    confidence_N: Floats


def _vote(code_N: Codes, num_labels: int, neighbours: Neighbours) -> _Vote:
    """The vote on every product, in blocks of `[4096, L]`; code -1 is no label."""
    size = len(code_N)
    picture_code_U, copies = _picture_labels(code_N, num_labels, neighbours)
    labelled = code_N >= 0
    joint_LL = np.zeros((num_labels, num_labels))
    count_L = np.bincount(code_N[labelled], minlength=num_labels)
    proposed_N = np.zeros(size, np.int64)
    best_N, given_N = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for start in range(0, size, BLOCK_ROWS):
        rows = np.arange(start, min(size, start + BLOCK_ROWS))
        code_B, place_B = np.maximum(code_N[rows], 0), np.arange(len(rows))
        share_BL = _shares(rows, code_N, num_labels, picture_code_U, copies, neighbours)
        given_N[rows] = share_BL[place_B, code_B]
        for label in np.unique(code_N[rows]):
            if label >= 0:
                joint_LL[label] += share_BL[code_N[rows] == label].sum(axis=0)
        share_BL[place_B, code_B] = -1
        proposed_N[rows] = share_BL.argmax(axis=1)
        best_N[rows] = share_BL.max(axis=1)
    code = np.maximum(code_N, 0)
    others = np.maximum(count_L[code] - 1, 1)
    alone = count_L[code] <= 1
    own = np.where(alone, 0, (joint_LL[code, code] - given_N) / others)
    taken = np.where(alone, 1, (joint_LL[code, proposed_N] - best_N) / others)
    usual = (np.maximum(own, 0) + SMOOTHING) / (np.maximum(taken, 0) + SMOOTHING)
    odds = (np.maximum(best_N, 0) + SMOOTHING) / (given_N + SMOOTHING) * usual**CONFUSION
    return _Vote(proposed_N, best_N, given_N, (odds / (1 + odds)).astype(np.float32))


def _shares(
    rows: Codes,
    code_N: Codes,
    num_labels: int,
    picture_code_U: Codes,
    copies: dict[int, NDArray[np.float32]],
    neighbours: Neighbours,
) -> Floats:
    """`[B, L]`: each label's share of the vote on some products; a product never votes on itself."""
    count = len(rows)
    place_B, picture_B, code_B = np.arange(count), neighbours.picture_N[rows], code_N[rows]
    near_BK, distance_BK = neighbours.row_UK[picture_B], neighbours.distance_UK[picture_B]
    far_B1 = np.max(np.where(np.isfinite(distance_BK), distance_BK, 0), axis=1, keepdims=True)
    weight_BK = np.exp(-2 * distance_BK / np.maximum(far_B1, 1e-9))
    weight_BK *= near_BK.shape[1] / np.maximum(weight_BK.sum(axis=1, keepdims=True), 1e-9)
    vote_BL = np.zeros((count, num_labels), np.float32)
    for column in range(near_BK.shape[1]):
        label_B = np.where(near_BK[:, column] >= 0, picture_code_U[near_BK[:, column]], -1)
        heard = label_B >= 0
        np.add.at(vote_BL, (place_B[heard], label_B[heard]), weight_BK[heard, column])
    for place, picture in enumerate(picture_B):
        if int(picture) in copies:
            same_L = copies[int(picture)].copy()
            if code_B[place] >= 0:
                same_L[code_B[place]] -= 1
            vote_BL[place] += SAME_PICTURE_VOTES * same_L / max(float(same_L.sum()), 1)
    vote_BL /= np.maximum(vote_BL.sum(axis=1, keepdims=True), 1e-9)
    return vote_BL


def _picture_labels(
    code_N: Codes, num_labels: int, neighbours: Neighbours
) -> tuple[Codes, dict[int, NDArray[np.float32]]]:
    """Per picture the commonest label of its products, -1 for none; and for shared pictures how often each."""
    code_U = code_N[neighbours.first_U].copy()
    copies: dict[int, NDArray[np.float32]] = {}
    for rows in neighbours.copies():
        codes = code_N[rows]
        counts = np.bincount(codes[codes >= 0], minlength=num_labels).astype(np.float32)
        if counts.any():
            picture = int(neighbours.picture_N[rows[0]])
            copies[picture] = counts
            code_U[picture] = int(counts.argmax())
    return code_U, copies


def _purity(code_N: Codes, num_labels: int, clusters: Clusters) -> tuple[Codes, NDArray[np.float64]]:
    """Per cluster its number of products, and the share of the commonest label among those that have one."""
    counts_CL = np.zeros((clusters.count, num_labels), np.int64)
    known = code_N >= 0
    np.add.at(counts_CL, (clusters.assignment_N[known], code_N[known]), 1)
    sizes = np.bincount(clusters.assignment_N, minlength=clusters.count)
    return sizes, counts_CL.max(axis=1) / np.maximum(counts_CL.sum(axis=1), 1)


def _evidence(row: int, label: int, code_N: Codes, neighbours: Neighbours, products: Products) -> tuple[str, ...]:
    """The nearest pictures' first products that have the label."""
    near = neighbours.row_UK[neighbours.picture_N[row]]
    firsts = neighbours.first_U[near[near >= 0]]
    return tuple(str(products.product_id[other]) for other in firsts[code_N[firsts] == label][:SHOWN_NEIGHBOURS])
