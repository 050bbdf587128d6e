"""What Prometheus reads from the service."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from enclip.serving.follow import Follower
from enclip.serving.refresh import Refresher

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REASONS = ("key", "release", "queue", "deadline")
_TEXTS = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServiceMetrics:
    """One registry to one app, so that two apps in a process do not add up."""

    def __init__(self, follower: Follower) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_FollowCollector(follower))
        self._requests = Counter(
            "enclip_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "enclip_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "enclip_refused_requests",
            "Requests refused before any search: no key, no release, a full queue, a deadline while waiting.",
            ("reason",),
            registry=self.registry,
        )
        for reason in _REASONS:
            self._refused.labels(reason)  # shown as 0 from the start, so that the first one is a rise
        self._waiting = Gauge(
            "enclip_waiting_searches", "Searches that wait for their turn now.", registry=self.registry
        )
        self._compared = Gauge(
            "enclip_compared_releases", "Releases in memory beside the served one.", registry=self.registry
        )
        self._wait_seconds = Histogram(
            "enclip_queue_seconds",
            "Time that searches waited for their words and their turn, those refused while waiting included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._pass_texts = Histogram(
            "enclip_text_pass_texts",
            "Texts that went through the text towers together.",
            buckets=_TEXTS,
            registry=self.registry,
        )

        self._query_log = Counter(
            "enclip_query_log_lines",
            "Lines of the query log by outcome: written, or lost to a disk that fails or is too slow.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("written", "lost"):
            self._query_log.labels(outcome)

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer. `route` is the route's template, never a path that a client made up."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refuse(self, reason: str) -> None:
        """Count one refusal; `reason` is one of key, release, queue and deadline."""
        self._refused.labels(reason).inc()

    def watch_waiting(self, num_waiting: Callable[[], int]) -> None:
        """Where to look, when scraped, for how many searches wait."""
        self._waiting.set_function(num_waiting)

    def watch_compared(self, num_releases: Callable[[], int]) -> None:
        """Where to look, when scraped, for how many releases are in memory beside the served one."""
        self._compared.set_function(num_releases)

    def observe_wait(self, seconds: float) -> None:
        """Count one search that has its turn, or has given up."""
        self._wait_seconds.observe(seconds)

    def observe_pass(self, num_texts: int) -> None:
        """Count one pass through the text towers."""
        self._pass_texts.observe(num_texts)

    def count_query_line(self, outcome: str) -> None:
        """Count one line of the query log as "written" or "lost"."""
        self._query_log.labels(outcome).inc()

    def watch_refresher(self, refresher: Refresher) -> None:
        """Where to look, when scraped, for how telling of changes goes."""
        self.registry.register(_RefreshCollector(refresher))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class _RefreshCollector(Collector):
    def __init__(self, refresher: Refresher) -> None:
        self._refresher = refresher

    def collect(self) -> Iterator[Metric]:
        state = self._refresher.state
        yield GaugeMetricFamily(
            "enclip_refresh_waiting", "1 while Airflow is to be told of changed products.", int(state.waiting)
        )
        yield GaugeMetricFamily("enclip_refresh_problem", "1 while it cannot be told.", int(bool(state.problem)))
        yield CounterMetricFamily("enclip_refresh_triggers", "Times that it was told.", state.num_told)
        yield CounterMetricFamily("enclip_failed_refresh_triggers", "Times that it failed.", state.num_failed)


class _FollowCollector(Collector):
    """Reads the follower when scraped, so that a thread that hangs shows as a growing age."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        served, state = self._follower.served, self._follower.state
        yield GaugeMetricFamily("enclip_release", "Release that answers; 0: none.", served.version if served else 0)
        yield GaugeMetricFamily("enclip_alias_release", "Release that the alias names; 0: none.", state.alias or 0)
        yield GaugeMetricFamily(
            "enclip_release_products", "Products of the release.", len(served.release.products) if served else 0
        )
        yield GaugeMetricFamily(
            "enclip_withdrawn_products", "Products that no release may show.", len(served.withdrawn) if served else 0
        )
        yield GaugeMetricFamily("enclip_follow_problem", "1 while following has a problem.", int(bool(state.problem)))
        yield GaugeMetricFamily(
            "enclip_alias_age_seconds",
            "Seconds since the alias was last looked at; -1: never.",
            time.time() - state.checked_at if state.checked_at else -1,
        )
        yield CounterMetricFamily("enclip_release_swaps", "Releases put into service.", state.num_swaps)
        yield CounterMetricFamily("enclip_failed_loads", "Releases that failed to load.", state.num_failed_loads)
