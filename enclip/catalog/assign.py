"""Place newcomers in groups and splits: keys and neighbours from the database, the rule from `groups`."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, bindparam, func, select

from enclip.catalog.groups import Key, KeyKind, KeyState, Place, group_limit, near_identical, place_newcomers
from enclip.catalog.tables import KEYS, PICTURES, PRODUCTS, in_parts
from enclip.database import read_only
from enclip.records import Split

logger = logging.getLogger(__name__)
CHUNK = 10_000  # newcomers placed at a time: bounds the memory of a first ingest
CANDIDATES = 4_000  # products whose pictures are compared at a time: buckets of look-alikes grow with the catalog


@dataclass(frozen=True, slots=True)
class _Bearer:
    """A product that has a key, with its picture and its place (None: not placed yet)."""

    key: Key
    product_id: str
    image_sha256: str
    place: Place | None


def assign_places(engine: Engine, *, progress: Callable[[int], None] | None = None, chunk: int = CHUNK) -> int:
    """Place every product that has no place yet; how many. The caller holds the ingest lock.

    Safe to run again after a crash: what was placed is kept, the rest is placed.
    """
    done = 0
    while newcomers := _newcomers(engine, chunk):
        limit = group_limit(_num_products(engine))
        places = _places(engine, newcomers, limit)
        _store(engine, places)
        done += len(places)
        if progress is not None:
            progress(done)
    return done


def _places(engine: Engine, newcomers: Mapping[str, str], limit: int) -> dict[str, Place]:
    keys = _keys_of(engine, list(newcomers))
    counts = _key_counts(engine, {key for own in keys.values() for key in own})
    refused = {key for key, count in counts.items() if count > limit}
    for key in sorted(refused):
        if key.kind is not KeyKind.BAND:
            logger.info("%d products share one %s: refused as a group", counts[key], key.kind.name.lower())
    trusted = {product_id: [key for key in own if key not in refused] for product_id, own in keys.items()}
    links = {product_id: [key for key in own if key.kind is not KeyKind.BAND] for product_id, own in trusted.items()}
    placed = _placed(engine, {key for own in links.values() for key in own})
    for newcomer, look, other in _look_alikes(engine, newcomers, trusted, counts):
        links[newcomer].append(look)
        if other.place is not None:
            placed.setdefault(look, KeyState()).add(other.place)
        elif other.product_id in links:
            links[other.product_id].append(look)
    groups = {place.group_id for state in placed.values() for place in state.members}
    return place_newcomers(links, placed=placed, group_sizes=_group_sizes(engine, groups), limit=limit)


def _look_alikes(
    engine: Engine, newcomers: Mapping[str, str], keys: Mapping[str, Sequence[Key]], counts: Mapping[Key, int]
) -> Iterator[tuple[str, Key, _Bearer]]:
    """(newcomer, the key of the pair, the other) for each near-identical pair of pictures."""
    banded = {product_id: [key for key in keys[product_id] if key.kind is KeyKind.BAND] for product_id in newcomers}
    for part in _comparable(banded, counts):
        bands = {product_id: banded[product_id] for product_id in part}
        bearers: defaultdict[Key, list[_Bearer]] = defaultdict(list)
        for bearer in _bearers(engine, {key for own in bands.values() for key in own}):
            bearers[bearer.key].append(bearer)
        candidates: dict[str, list[_Bearer]] = {}
        for product_id in part:
            others = {
                bearer.product_id: bearer
                for key in bands[product_id]
                for bearer in bearers[key]
                # The same picture is linked already, and a pair of newcomers needs one look.
                if bearer.image_sha256 != newcomers[product_id]
                and (bearer.place is not None or bearer.product_id > product_id)
            }
            candidates[product_id] = list(others.values())
        pictures = {bearer.image_sha256 for others in candidates.values() for bearer in others}
        thumbs = _thumbs(engine, pictures | {newcomers[product_id] for product_id in part})
        for product_id, found in candidates.items():
            alike = near_identical(thumbs[newcomers[product_id]], [thumbs[bearer.image_sha256] for bearer in found])
            for bearer, similar in zip(found, alike, strict=True):
                if similar:
                    pair = sorted((product_id, bearer.product_id))
                    yield product_id, Key(KeyKind.LOOK, "\0".join(pair)), bearer


def _comparable(bands: Mapping[str, Sequence[Key]], counts: Mapping[Key, int]) -> Iterator[list[str]]:
    """Newcomers in parts that have at most CANDIDATES others to be compared with, or are one newcomer."""
    part: list[str] = []
    candidates = 0
    for product_id, own in bands.items():
        more = sum(counts[key] for key in own)
        if part and candidates + more > CANDIDATES:
            yield part
            part, candidates = [], 0
        part.append(product_id)
        candidates += more
    if part:
        yield part


def _num_products(engine: Engine) -> int:
    """All products ever seen, withdrawn ones included: what a group's size is measured against."""
    with read_only(engine) as connection:
        return int(connection.scalar(select(func.count()).select_from(PRODUCTS)) or 0)


def _newcomers(engine: Engine, limit: int) -> dict[str, str]:
    """Up to `limit` products without a place → their pictures; those of one title stem come together."""
    # The sum keeps SQLite from looking keys up by their kind: it would read all stems for every newcomer.
    stem = (KEYS.c.product_id == PRODUCTS.c.product_id) & (KEYS.c.kind + 0 == int(KeyKind.STEM))
    query = (
        select(PRODUCTS.c.product_id, PRODUCTS.c.image_sha256)
        .outerjoin(KEYS, stem)
        .where(PRODUCTS.c.group_id == "")
        .order_by(KEYS.c.value, PRODUCTS.c.product_id)
        .limit(limit)
    )
    with read_only(engine) as connection:
        return dict(connection.execute(query).tuples().all())


def _keys_of(engine: Engine, product_ids: Sequence[str]) -> dict[str, list[Key]]:
    """The keys of products, in the order of their kinds."""
    found: dict[str, list[Key]] = {product_id: [] for product_id in product_ids}
    with read_only(engine) as connection:
        for part in in_parts(product_ids):
            query = select(KEYS).where(KEYS.c.product_id.in_(part)).order_by(KEYS.c.kind, KEYS.c.value)
            for row in connection.execute(query):
                found[row.product_id].append(Key(KeyKind(row.kind), row.value))
    return found


def _key_counts(engine: Engine, keys: Iterable[Key]) -> dict[Key, int]:
    """How many products have each key, unplaced ones included."""
    counts: dict[Key, int] = {}
    with read_only(engine) as connection:
        for kind, values in _by_kind(keys).items():
            for part in in_parts(values):
                query = (
                    select(KEYS.c.value, func.count())
                    .where(KEYS.c.kind == int(kind), KEYS.c.value.in_(part))
                    .group_by(KEYS.c.value)
                )
                for value, count in connection.execute(query).tuples():
                    counts[Key(kind, value)] = count
    return counts


def _placed(engine: Engine, keys: Iterable[Key]) -> dict[Key, KeyState]:
    """Per key: the groups of the placed products that have it."""
    states: dict[Key, KeyState] = {}
    with read_only(engine) as connection:
        for kind, values in _by_kind(keys).items():
            for part in in_parts(values):
                query = (
                    select(KEYS.c.value, PRODUCTS.c.group_id, PRODUCTS.c.split, func.count())
                    .join(PRODUCTS, KEYS.c.product_id == PRODUCTS.c.product_id)
                    .where(KEYS.c.kind == int(kind), KEYS.c.value.in_(part), PRODUCTS.c.group_id != "")
                    .group_by(KEYS.c.value, PRODUCTS.c.group_id, PRODUCTS.c.split)
                )
                for value, group_id, split, count in connection.execute(query).tuples():
                    states.setdefault(Key(kind, value), KeyState()).add(Place(group_id, Split(split)), count)
    return states


def _bearers(engine: Engine, keys: Iterable[Key]) -> Iterator[_Bearer]:
    """The products that have these keys."""
    columns = KEYS.c.value, PRODUCTS.c.product_id, PRODUCTS.c.image_sha256, PRODUCTS.c.group_id, PRODUCTS.c.split
    with read_only(engine) as connection:
        for kind, values in _by_kind(keys).items():
            for part in in_parts(values):
                query = (
                    select(*columns)
                    .join(PRODUCTS, KEYS.c.product_id == PRODUCTS.c.product_id)
                    .where(KEYS.c.kind == int(kind), KEYS.c.value.in_(part))
                )
                for value, product_id, sha, group_id, split in connection.execute(query).tuples():
                    place = Place(group_id, Split(split)) if group_id else None
                    yield _Bearer(Key(kind, value), product_id, sha, place)


def _thumbs(engine: Engine, image_sha256s: Iterable[str]) -> dict[str, bytes]:
    """The thumbs of pictures."""
    found: dict[str, bytes] = {}
    with read_only(engine) as connection:
        for part in in_parts(sorted(set(image_sha256s))):
            query = select(PICTURES.c.image_sha256, PICTURES.c.thumb).where(PICTURES.c.image_sha256.in_(part))
            found.update((sha, thumb) for sha, thumb in connection.execute(query).tuples())
    return found


def _group_sizes(engine: Engine, group_ids: Iterable[str]) -> Counter[str]:
    """How many products each group has."""
    sizes: Counter[str] = Counter()
    with read_only(engine) as connection:
        for part in in_parts(sorted(set(group_ids))):
            query = (
                select(PRODUCTS.c.group_id, func.count())
                .where(PRODUCTS.c.group_id.in_(part))
                .group_by(PRODUCTS.c.group_id)
            )
            sizes.update(dict(connection.execute(query).tuples().all()))
    return sizes


def _store(engine: Engine, places: Mapping[str, Place]) -> None:
    """Store where newcomers belong, in one transaction; a product that has a place keeps it."""
    if not places:
        return
    rows = [
        {"key_id": product_id, "to_group": place.group_id, "to_split": place.split.value}
        for product_id, place in places.items()
    ]
    with engine.begin() as connection:
        connection.execute(
            PRODUCTS.update()
            .where(PRODUCTS.c.product_id == bindparam("key_id"), PRODUCTS.c.group_id == "")
            .values(group_id=bindparam("to_group"), split=bindparam("to_split")),
            rows,
        )


def _by_kind(keys: Iterable[Key]) -> dict[KeyKind, list[str]]:
    values: defaultdict[KeyKind, list[str]] = defaultdict(list)
    for key in sorted(set(keys)):
        values[key.kind].append(key.value)
    return values
