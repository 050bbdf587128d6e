"""Where changes of products are made: one after the other, and told to the follower and to the refresher."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
from anyio import to_thread
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError

from enclip.errors import CatalogBusy, CatalogError, ImageError
from enclip.serving.follow import Follower
from enclip.serving.product_schemas import ProductChange, ProductRequest, ProductState
from enclip.serving.refresh import Refresher

if TYPE_CHECKING:
    from enclip.catalog.store import Entry

MAX_WAITING = 64
NUM_WITHDRAWING = 4
MAX_WAIT_S = 8.0
LOOK_S = 1.0  # for a look at what is withdrawn that is under way

Answer = TypeVar("Answer")


class Catalog(Protocol):
    """The catalog as far as single products go. Every method may raise StoreError."""

    def entry(self, product_id: str) -> "Entry | None":
        """What it has of a product, withdrawn ones included."""
        ...

    def put(self, product_id: str, cells: Mapping[str, str], *, image: bytes | None) -> bool:
        """Take a product in; whether that changed anything. Raises CatalogError, ImageError or CatalogBusy."""
        ...

    def withdraw(self, product_id: str) -> bool | None:
        """Take a product out; whether it was live, None where there never was one."""
        ...


class Shelf:
    """Reads and changes single products of the catalog.

    Args:
        catalog: where they are.
        follower: what answers searches; it learns of what is withdrawn at once.
        refresher: learns of what an index lacks.
        max_waiting: changes, and withdrawals, that may wait for their turn before new ones get 429.
        max_wait_s: seconds that a change may wait for its turn before it gets 503.
    """

    def __init__(
        self,
        catalog: Catalog,
        follower: Follower,
        refresher: Refresher,
        *,
        max_waiting: int = MAX_WAITING,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._catalog = catalog
        self._follower = follower
        self._refresher = refresher
        self._turn = anyio.Semaphore(1)  # the catalog has one writer at a time; here nobody waits by polling for it
        self._thread = anyio.CapacityLimiter(1)
        self._withdrawing = anyio.CapacityLimiter(NUM_WITHDRAWING)  # a database that hangs holds no other threads
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s

    def state(self, product_id: str) -> ProductState | None:
        """What the catalog has of a product; None where there never was one."""
        entry = self._catalog.entry(product_id)
        return None if entry is None else _state_of(entry, self._follower)

    async def put(self, product_id: str, product: ProductRequest) -> ProductChange:
        """Take a product in. Raises HTTPException, RequestValidationError, ImageError or StoreError."""

        def work() -> ProductChange:
            changed = self._catalog.put(product_id, product.cells(), image=product.image)
            return self._change(product_id, changed=changed)

        try:
            return await self._in_turn(work)
        except ImageError:
            raise
        except CatalogBusy as error:
            says = "An ingest holds the catalog; nothing was changed. Ask again."
            raise HTTPException(503, says, headers={"Retry-After": "10"}) from error
        except CatalogError as error:
            raise RequestValidationError([{"type": "value_error", "loc": ("body",), "msg": error.what}]) from error

    async def withdraw(self, product_id: str) -> ProductChange | None:
        """Take a product out; None where there never was one. Raises HTTPException or StoreError."""

        def work() -> ProductChange | None:
            changed = self._catalog.withdraw(product_id)
            return None if changed is None else self._change(product_id, changed=changed)

        # Not behind changes that wait for an ingest to end: what is gone must be gone at once.
        if self._withdrawing.statistics().tasks_waiting >= self._max_waiting:
            raise self._too_many()
        return await to_thread.run_sync(work, limiter=self._withdrawing)

    def _change(self, product_id: str, *, changed: bool) -> ProductChange:
        served = self._follower.served
        entry = self._catalog.entry(product_id)
        assert entry is not None, "a product that was there once is never forgotten"
        if served is not None and (product_id in served.withdrawn) != entry.withdrawn:
            self._follower.check_withdrawn(timeout_s=LOOK_S)
        state = _state_of(entry, self._follower)
        waits = changed or (state.state == "live" and state.served != "current")
        if waits:
            self._refresher.ask()
        told = "scheduled" if self._refresher.is_told_by_itself else "by hand"
        return ProductChange(**state.model_dump(), changed=changed, refresh=told if waits else "none")

    async def _in_turn(self, work: Callable[[], Answer]) -> Answer:
        if not self._turn.value and self._turn.statistics().tasks_waiting >= self._max_waiting:
            raise self._too_many()
        try:
            with anyio.fail_after(self._max_wait_s):
                await self._turn.acquire()
        except TimeoutError:
            says = "The change's turn did not come in time; nothing was changed. Ask again."
            raise HTTPException(503, says, headers={"Retry-After": "2"}) from None
        try:
            return await to_thread.run_sync(work, limiter=self._thread)
        finally:
            self._turn.release()

    @staticmethod
    def _too_many() -> HTTPException:
        return HTTPException(429, "Too many changes are waiting.", headers={"Retry-After": "2"})


def _state_of(entry: "Entry", follower: Follower) -> ProductState:
    served = follower.served
    product = entry.product
    shown = served.product(product.product_id) if served is not None and not entry.withdrawn else None
    fields = {name: getattr(product, name) for name in ProductState.model_fields if hasattr(product, name)}
    is_current = shown is not None and shown.image_sha256 == product.image_sha256
    is_current = is_current and all(getattr(shown, name) == value for name, value in fields.items())
    return ProductState(
        **fields,
        state="withdrawn" if entry.withdrawn else "live",
        served="current" if is_current else "outdated" if shown is not None else "absent",
        release=served.version if served is not None else None,
        updated_at=entry.updated_at,
    )
