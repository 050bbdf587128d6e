"""Move the alias `champion`, so that nobody's update is lost and every move is accounted for (D13).

A move is three statements, and a crash between any two of them is healed by whoever comes next:

1. the intention is entered as *pending* and committed;
2. under the database's lock, and only if the champion is still the expected one, the alias moves;
3. the row becomes *done*, and `previous` and `challenger` are set from the ledger.

The alias is the truth. Where it differs from the last row that is done, a pending row explains it (its
process died after 2), or it was moved elsewhere and is entered as `external`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import Connection, Engine

from enclip import ledger
from enclip.errors import EnclipError, PromotionConflict, RegistryError
from enclip.ledger import Action, Promotion
from enclip.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry

LOCK = "champion"
# A pending row this old belongs to no living process: the lock is held for seconds.
FORSAKEN = timedelta(hours=1)

log = logging.getLogger(__name__)


class Promoting(Protocol):
    """What a promotion needs of the platform."""

    @property
    def database(self) -> Engine: ...

    @property
    def registry(self) -> Registry: ...


def promote(platform: Promoting, release: int, *, expected_champion: int | None, by: str, reason: str) -> Promotion:
    """Make a release the champion, if `expected_champion` (what it was measured against) still is.

    Idempotent: where the release is champion already, the move that made it so is returned.

    Raises:
        PromotionConflict: another release has become champion; nothing has moved.
        RegistryError: there is no such release, or the registry does not answer.
    """
    return _move(platform, "promote", release, expected_champion=expected_champion, by=by, reason=reason)


def promote_by_hand(
    platform: Promoting,
    release: str | int,
    *,
    by: str = "a person",
    reason: str = "",
    verify: Callable[[int], None] | None = None,
) -> Promotion:
    """Make a release the champion because somebody says so, whatever is champion now.

    Args:
        verify: raises where a service could not follow to that version; nothing has moved then.
    """
    version = platform.registry.resolve(release)
    if verify is not None:
        verify(version)
    expected = platform.registry.alias(CHAMPION)
    return promote(platform, version, expected_champion=expected, by=by, reason=reason or "Promoted by hand.")


def rollback(
    platform: Promoting,
    *,
    to: str | int | None = None,
    by: str = "a person",
    reason: str = "",
    verify: Callable[[int], None] | None = None,
) -> Promotion:
    """Point the alias back: to the last champion with another ensemble, or to a release by name.

    A rollback that died half-way is finished first, and then is the answer: run again, it does not go
    back twice. Like `kubectl rollout undo`, a second one returns to where the first came from.

    Raises:
        RegistryError: there is nothing to go back to. PromotionConflict: somebody else moved meanwhile.
    """
    finished = reconcile(platform)
    if finished is not None and finished.action == "rollback":
        return finished
    champion = platform.registry.alias(CHAMPION)
    target = platform.registry.resolve(to) if to is not None else previous_release(platform)
    if target is None:
        raise RegistryError(
            "No release with another ensemble has been champion before.", remedy="Name one: `enclip rollback --to N`."
        )
    if verify is not None:
        verify(target)
    return _move(
        platform, "rollback", target, expected_champion=champion, by=by, reason=reason or "Rolled back by hand."
    )


def reconcile(platform: Promoting) -> Promotion | None:
    """Bring ledger and alias together; the move that had to be entered or finished, or None."""
    with aliases_held(platform) as entered:
        return entered


@contextmanager
def aliases_held(platform: Promoting) -> Iterator[Promotion | None]:
    """Ledger and aliases agree, and no promotion moves them meanwhile; the move that had to be entered, or None."""
    with ledger.locked(platform.database, LOCK) as connection:
        _, entered = _reconcile(connection, platform.registry)
        _settle(connection, platform.registry)
        yield entered


def previous_release(platform: Promoting) -> int | None:
    """The last champion with another ensemble than the present one, if the registry still has it."""
    return _first_existing(platform.registry, ledger.previous_of(ledger.history(platform.database)))


def set_challenger(platform: Promoting, release: int) -> None:
    """Name the release that was evaluated last and not promoted."""
    with ledger.locked(platform.database, LOCK):
        if platform.registry.alias(CHAMPION) != release and not platform.registry.release(release).is_pruned:
            platform.registry.set_alias(CHALLENGER, release)


def _move(
    platform: Promoting, action: Action, release: int, *, expected_champion: int | None, by: str, reason: str
) -> Promotion:
    registry = platform.registry
    ensemble, map_at_10 = _known_about(registry, release)
    intention = ledger.intend(
        platform.database,
        action=action,
        to_release=release,
        expected_champion=expected_champion,
        by=by,
        reason=reason,
        ensemble_key=ensemble,
        map_at_10=map_at_10,
    )
    with ledger.locked(platform.database, LOCK) as connection:
        champion, _ = _reconcile(connection, registry)
        is_pruned = registry.release(release).is_pruned  # asked under the lock, under which it is marked
        if champion == release:
            ledger.drop_pending(connection, intention)
        elif champion == expected_champion and not is_pruned:
            registry.set_alias(CHAMPION, release)
            ledger.finish(connection, intention, from_release=champion)
        else:
            ledger.drop_pending(connection, intention)
        _settle(connection, registry)
        made = ledger.moves(connection)
    if champion not in (release, expected_champion):
        raise PromotionConflict(
            f"Release {release} was measured against {_named(expected_champion)}, "
            f"but the champion now is {_named(champion)}.",
            remedy="Evaluate and gate it again against the new champion.",
        )
    if champion != release and is_pruned:
        raise RegistryError(f"The files of release {release} were pruned.", remedy="Name another: `--to N`.")
    return next(move for move in reversed(made) if move.to_release == release)


def _reconcile(connection: Connection, registry: Registry) -> tuple[int | None, Promotion | None]:
    """The champion, and the move that had to be entered so that the ledger's last row says so. Needs the lock."""
    champion = registry.alias(CHAMPION)
    made = ledger.moves(connection)
    last = made[-1].to_release if made else None
    pending = ledger.moves(connection, state="pending")
    entered: Promotion | None = None
    if champion != last:
        unfinished = next((move for move in pending if move.to_release == champion), None)
        if unfinished is not None:
            ledger.finish(connection, unfinished.id, from_release=last)
        else:
            ensemble, map_at_10 = "", None
            if champion is not None:
                try:
                    ensemble, map_at_10 = _known_about(registry, champion)
                except EnclipError as error:
                    log.warning("The alias %s names version %s, which is no release: %s", CHAMPION, champion, error)
            ledger.enter(
                connection,
                action="external",
                state="done",
                from_release=last,
                to_release=champion,
                expected_champion=None,
                by="registry",
                reason="The alias was moved outside ENCLIP.",
                ensemble_key=ensemble,
                map_at_10=map_at_10,
            )
        entered = ledger.moves(connection)[-1]
        log.info("Entered in the ledger: %s", entered.summary)
    for forsaken in pending:
        if (entered is None or forsaken.id != entered.id) and forsaken.at < datetime.now(UTC) - FORSAKEN:
            ledger.drop_pending(connection, forsaken.id)
    return champion, entered


def _settle(connection: Connection, registry: Registry) -> None:
    """Set the aliases that follow from the ledger. Needs the lock."""
    aliases = registry.aliases()
    previous = _first_existing(registry, ledger.previous_of(ledger.moves(connection)))
    if previous is None:
        if PREVIOUS in aliases:
            registry.drop_alias(PREVIOUS)
    elif aliases.get(PREVIOUS) != previous:
        registry.set_alias(PREVIOUS, previous)
    if CHALLENGER in aliases and aliases[CHALLENGER] == aliases.get(CHAMPION):
        registry.drop_alias(CHALLENGER)


def _known_about(registry: Registry, release: int) -> tuple[str, float | None]:
    """Digest of a release's ensemble, and the mAP@10 it was reported with, if it was."""
    key = repr(registry.release_manifest(release).ensemble_key)
    map_at_10 = registry.release(release).tags.get("map_at_10")
    return hashlib.sha256(key.encode()).hexdigest(), float(map_at_10) if map_at_10 else None


def _first_existing(registry: Registry, releases: list[int]) -> int | None:
    if not releases:
        return None
    existing = {release.version for release in registry.releases()}
    return next((release for release in releases if release in existing), None)


def _named(release: int | None) -> str:
    return "no champion" if release is None else f"release {release}"
