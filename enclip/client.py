"""A client of the search service, for other programs: typed answers, clear errors, and neither torch nor MLflow.

with SearchClient("http://127.0.0.1:8000") as shop:
    for hit in shop.search("navy blue shirt").results:
        print(hit.product_id, hit.name, hit.score)
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from enclip.errors import ConfigError, EnclipError, first_line
from enclip.serving.bulk_schemas import BatchAnswer, EmbedAnswer
from enclip.serving.cluster_schemas import (
    DEFAULT_CLUSTERS,
    MAX_POINTS,
    ClusterAnswer,
    ClustersAnswer,
    MapAnswer,
)
from enclip.serving.compare_schemas import (
    CompareAnswer,
    JudgementAnswer,
    JudgementRequest,
    JudgementsAnswer,
    ReleasesAnswer,
    SaidAnswer,
)
from enclip.serving.explain_schemas import ExplainAnswer
from enclip.serving.product_schemas import ProductChange, ProductRequest, ProductState
from enclip.serving.schemas import (
    DEFAULT_K,
    MAX_OFFSET,
    CatalogAnswer,
    PriceRange,
    ProductCard,
    Readiness,
    SearchAnswer,
    SearchFilters,
    SearchHit,
    SearchRequest,
    SearchWeights,
    SimilarAnswer,
)

__all__ = [
    "BatchAnswer",
    "CatalogAnswer",
    "ClusterAnswer",
    "ClustersAnswer",
    "CompareAnswer",
    "EmbedAnswer",
    "ExplainAnswer",
    "JudgementAnswer",
    "JudgementRequest",
    "JudgementsAnswer",
    "MapAnswer",
    "PriceRange",
    "ProductCard",
    "ProductChange",
    "ProductRequest",
    "ProductState",
    "Readiness",
    "ReleaseChanged",
    "ReleasesAnswer",
    "SaidAnswer",
    "SearchAnswer",
    "SearchClient",
    "SearchFilters",
    "SearchHit",
    "SearchRequest",
    "SearchWeights",
    "ServiceError",
    "SimilarAnswer",
]

MAX_RETRIES = 3
LONGEST_WAIT_S = 30.0

_COME_BACK = frozenset({429, 503})
_SUCH_AS = "Give one such as http://127.0.0.1:8000."
_KEY = re.compile(r"[!-~]+")

Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(EnclipError):
    """The service refused a request, or gave no answer that can be read.

    Attributes:
        status: of the answer; 0: none came.
        detail: what the service says of it.
        request_id: names the request in the service's log; "" where it gave none.
    """

    def __init__(self, what: str, *, remedy: str = "", status: int = 0, detail: str = "", request_id: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.status = status
        self.detail = detail
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        again = partial(
            type(self),
            self.what,
            remedy=self.remedy,
            status=self.status,
            detail=self.detail,
            request_id=self.request_id,
        )
        return (again, ())


class ReleaseChanged(EnclipError):
    """Another release answers than the one that gave the pages before."""


class SearchClient:
    """Asks one service; safe to use from several threads at once. A context manager, which closes its connections.

    Every method raises ServiceError where the service refuses, cannot be reached or answers something else.

    Args:
        url: of the service, such as "http://127.0.0.1:8000"; a path in it stays.
        api_key: sent as `Authorization: Bearer`; None: no key is sent.
        timeout_s: for one attempt to connect, and for each wait for a part of an answer.
        max_retries: how often to ask again after a 429 or 503 that says to come back within LONGEST_WAIT_S.
        sleep: waits so many seconds.

    Raises:
        ConfigError: a URL or a key that no request can be made with.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        *,
        max_retries: int = MAX_RETRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {_checked_key(api_key)}"}
        self._http = httpx.Client(base_url=_checked_url(url), headers=headers, timeout=timeout_s)
        self._max_retries = max_retries
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._http.close()

    def search(self, request: SearchRequest | str) -> SearchAnswer:
        """The best products for a request; a str is one in words alone."""
        return self._ask(SearchAnswer, "POST", "v1/search", body=_sent(request))

    def search_batch(self, requests: Sequence[SearchRequest | str]) -> BatchAnswer:
        """Answers to up to 32 requests, in their order and from one release."""
        body = {"searches": [_sent(request) for request in requests]}
        return self._ask(BatchAnswer, "POST", "v1/search/batch", body=body)

    def pages(self, request: SearchRequest | str) -> Iterator[SearchAnswer]:
        """Page after page of `request.k` products, from its offset on, as deep as the service goes.

        Raises:
            ReleaseChanged: another release answers meanwhile, so that pages could overlap or leave products out.
                A product that is withdrawn meanwhile can make a page leave one out, too.
        """
        page = SearchRequest(text=request) if isinstance(request, str) else request
        page = page.model_copy(update={"k": page.k})  # sent even where it is our default: the pages step by it
        release: int | None = None
        while page.offset <= MAX_OFFSET:
            answer = self.search(page)
            if release not in (None, answer.release):
                raise ReleaseChanged(
                    f"Release {answer.release} answers for the products from place {page.offset + 1} on, but release "
                    f"{release} gave those before.",
                    remedy="Ask for the pages again from the first.",
                )
            release = answer.release
            if answer.results:
                yield answer
            if len(answer.results) < page.k:
                return
            page = page.model_copy(update={"offset": page.offset + page.k})

    def similar(self, product_id: str, *, k: int = DEFAULT_K, filters: SearchFilters | None = None) -> SimilarAnswer:
        """The products most like one of the release."""
        params = {"k": k, **_query(filters)}
        return self._ask(SimilarAnswer, "GET", f"v1/similar/{quote(product_id, safe='')}", params=params)

    def explain(self, request: SearchRequest | str, product_id: str) -> ExplainAnswer:
        """Why a search gives a product its score."""
        return self._ask(ExplainAnswer, "POST", "v1/explain", body={**_sent(request), "product_id": product_id})

    def releases(self) -> ReleasesAnswer:
        """The releases that can be compared, newest first."""
        return self._ask(ReleasesAnswer, "GET", "v1/releases")

    def compare(
        self, request: SearchRequest | str, *, left: str | int = "champion", right: str | int = "challenger"
    ) -> CompareAnswer:
        """The same search over two releases, by version or alias. One that is not in memory takes seconds to open."""
        return self._ask(CompareAnswer, "POST", "v1/compare", body={**_sent(request), "left": left, "right": right})

    def judge(self, judgement: JudgementRequest) -> JudgementAnswer:
        """Say which of two releases answers a query better, or whether a product is a good result; or take it back."""
        return self._ask(JudgementAnswer, "POST", "v1/judgements", body=judgement.model_dump(exclude_unset=True))

    def judgements(self) -> JudgementsAnswer:
        """How much was judged, and how the releases stand by it."""
        return self._ask(JudgementsAnswer, "GET", "v1/judgements/summary")

    def said(self, *, text: str = "", like: str = "", by: str = "") -> SaidAnswer:
        """What a judge, the one without a name by default, said of a query: of words, or of a product to be like."""
        return self._ask(SaidAnswer, "GET", "v1/judgements", params={"text": text, "like": like, "by": by})

    def clusters(self, *, k: int = DEFAULT_CLUSTERS, offset: int = 0) -> ClustersAnswer:
        """The clusters that hold products, the largest first, from the one behind the first `offset` on."""
        return self._ask(ClustersAnswer, "GET", "v1/clusters", params={"k": k, "offset": offset})

    def cluster(self, cluster: int, *, k: int = DEFAULT_K, offset: int = 0, suspects: bool = False) -> ClusterAnswer:
        """Products of a cluster, nearest to its centre first; or those alone that have a label to look at."""
        params = {"k": k, "offset": offset, "suspects": suspects}
        return self._ask(ClusterAnswer, "GET", f"v1/clusters/{cluster}", params=params)

    def map(self, *, k: int = MAX_POINTS) -> MapAnswer:
        """Where products lie on the map, an even sample of at most k. Of a release without one: ServiceError, 404."""
        return self._ask(MapAnswer, "GET", "v1/map", params={"k": k})

    def embed(self, inputs: Sequence[str | bytes]) -> EmbedAnswer:
        """Embeddings of up to 64 texts (str) and pictures (bytes), and how to score them (`EmbedAnswer`)."""
        body = {"inputs": [{"text": given} if isinstance(given, str) else {"image": given} for given in inputs]}
        return self._ask(EmbedAnswer, "POST", "v1/embed", body=body)

    def catalog(self, *, filters: SearchFilters | None = None) -> CatalogAnswer:
        """What the release holds, and filters to offer, counted under filters of other fields."""
        return self._ask(CatalogAnswer, "GET", "v1/catalog", params=_query(filters))

    def product(self, product_id: str) -> ProductState:
        """What the catalog has of a product, and what of it is served. Of one that never was: ServiceError, 404."""
        return self._ask(ProductState, "GET", _product_path(product_id))

    def put_product(self, product_id: str, product: ProductRequest) -> ProductChange:
        """Take a product in, or change it; needs a key that may write. Doing it twice does no harm."""
        body = product.model_dump(exclude_unset=True)
        return self._ask(ProductChange, "PUT", _product_path(product_id), body=body)

    def withdraw_product(self, product_id: str) -> ProductChange:
        """Take a product out of every release's results; needs a key that may write. Twice does no harm."""
        return self._ask(ProductChange, "DELETE", _product_path(product_id))

    def ready(self) -> Readiness:
        """Whether a release answers, and which. A service that is not ready is an answer, not an error."""
        answer = self._send(self._http.build_request("GET", "health/ready"))
        if not answer.is_success and answer.status_code != 503:
            raise _refusal(answer)
        return _read(Readiness, answer)

    def _ask(
        self,
        kind: type[Answer],
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Answer:
        content = None if body is None else json.dumps(body, default=_as_base64)
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = self._http.build_request(method, path, content=content, params=params, headers=headers)
        answer = self._send(request)
        for _ in range(self._max_retries):
            wait_s = _wait_s(answer)
            if wait_s is None:
                break
            self._sleep(wait_s)
            answer = self._send(request)
        if not answer.is_success:
            raise _refusal(answer)
        return _read(kind, answer)

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._http.send(request)
        except httpx.RequestError as error:
            raise ServiceError(
                f"No answer from {request.url}: {type(error).__name__}: {first_line(error)}.",
                remedy="Check the address, and that the service runs; or give it more time with timeout_s.",
            ) from error


def _sent(request: SearchRequest | str) -> dict[str, Any]:
    """What was set, and nothing else: a service of another version keeps its own defaults."""
    return {"text": request} if isinstance(request, str) else request.model_dump(exclude_unset=True)


def _product_path(product_id: str) -> str:
    return f"v1/products/{quote(product_id, safe='')}"


def _query(filters: SearchFilters | None) -> dict[str, Any]:
    return filters.model_dump(exclude_none=True) if filters else {}


def _as_base64(value: Any) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} has no JSON")
    return base64.b64encode(value).decode()


def _wait_s(answer: httpx.Response) -> float | None:
    """How long to wait before the next attempt; None where there should be none."""
    asked = answer.headers.get("retry-after", "")
    if answer.status_code not in _COME_BACK or not re.fullmatch(r"[0-9]{1,9}", asked):
        return None
    return float(asked) if float(asked) <= LONGEST_WAIT_S else None


def _read(kind: type[Answer], answer: httpx.Response) -> Answer:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise ServiceError(
            f"{answer.request.url} answered {answer.status_code} with something that is no {kind.__name__}.",
            remedy="Check the address, and that client and service are of one version.",
            status=answer.status_code,
            request_id=answer.headers.get("x-request-id", ""),
        ) from error


def _refusal(answer: httpx.Response) -> ServiceError:
    """The error that an answer is, in the service's words where it is problem JSON."""
    detail = answer.reason_phrase
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        with suppress(ValueError, KeyError, TypeError):  # cut on the way; status and request id still tell
            detail = str(answer.json()["detail"])
    request_id = answer.headers.get("x-request-id", "")
    named = f" (request {request_id})" if request_id else ""
    return ServiceError(
        f"{answer.request.url} answered {answer.status_code}{named}: {detail}",
        status=answer.status_code,
        detail=detail,
        request_id=request_id,
    )


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"The service's URL cannot be read: {error}.", remedy=_SUCH_AS) from error
    if parsed.userinfo:
        raise ConfigError("The service's URL holds a password.", remedy="Give a key as api_key; URLs end up in logs.")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url!r} is no URL of a service.", remedy=_SUCH_AS)
    return parsed


def _checked_key(api_key: str) -> str:
    # Not repeated in the error: a key belongs into no log.
    if not _KEY.fullmatch(api_key):
        raise ConfigError("The API key is empty or holds blanks, line breaks or other characters that no header takes.")
    return api_key
