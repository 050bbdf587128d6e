"""Whether the catalog has changed since it was last trained on: a level, not an event (D13)."""

from enclip.catalog.store import without_prices
from enclip.ledger import last_attempt
from enclip.pipeline.platform import Platform


def should_retrain(platform: Platform) -> bool:
    """True where the live catalog differs from the snapshot of the last training *attempt* in more than prices.

    An attempt that was refused counts: its change is neither hidden nor tried for ever. Nothing is learnt from
    prices, so new ones are for a refresh alone.
    """
    attempt = last_attempt(platform.database)
    return attempt is None or without_prices(attempt.snapshot) != without_prices(platform.catalog.state_digest())


def should_refresh(platform: Platform) -> bool:
    """True where there is a champion whose index does not hold the live catalog, prices included."""
    champion = platform.registry.alias("champion")
    if champion is None:
        return False
    return platform.registry.release_manifest(champion).snapshot != platform.catalog.state_digest()
