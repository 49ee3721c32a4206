"""Metrics of versions of the model: who answered, and how far a shadow agrees.

Labels name the versions that are there, two at most; the series of one that has gone go with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.core.agreement import Agreement
from serving.core.observing import MODEL_CHANGES, RESULT_NAMES, SHADOW_ENDS
from serving.core.ports import Observer
from serving.core.request import Result
from serving.core.segment import Segment

# Hundredths, which rounding in another precision makes, up to the whole range of scores.
SCORE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BOTH, CURRENT_ONLY, SHADOW_ONLY = BOXES = ("both", "current", "shadow")
"""Who has a box."""


class VersionMetrics:
    """Metrics of the versions of one server's model.

    ``answered`` is for any thread; the rest belongs to the event loop.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="punctual", registry=registry)

        self._results = counter(
            "version_results",
            "Requests that left the engine of a version of the model, those of a shadow included.",
            "version",
            "result",
        )
        self._of_versions: dict[str, dict[type[Result], Counter]] = {}
        changes = counter(
            "model_changes",
            "Changes of the model that admins asked for, by what came of them.",
            "change",
        )
        self._changes = {change: changes.labels(change) for change in MODEL_CHANGES}
        shadowed = counter(
            "shadow_answers",
            "Answers that a shadow might have given again, by whether it did.",
            "end",
        )
        self._shadowed = {end: shadowed.labels(end) for end in SHADOW_ENDS}
        boxes = counter(
            "shadow_boxes",
            "Boxes in answers that were compared with a shadow's, by who has them.",
            "who",
        )
        self._boxes = {who: boxes.labels(who) for who in BOXES}
        self._differences = Histogram(
            "shadow_score_difference",
            "Difference between the scores of a box that both an answer and a shadow's have.",
            namespace="punctual",
            registry=registry,
            buckets=SCORE_BUCKETS,
        )

    def name_versions(self, releases: tuple[str, ...]) -> None:
        """Export series for these versions, at zero where they are new, and for no others."""
        known = dict(self._of_versions)
        for gone in known.keys() - set(releases):
            for name in RESULT_NAMES.values():
                self._results.remove(gone, name)
            del known[gone]
        for release in releases:
            if release not in known:
                known[release] = {
                    kind: self._results.labels(release, name) for kind, name in RESULT_NAMES.items()
                }
        self._of_versions = known

    def answered(self, release: str, result: Result) -> None:
        """Count a request that left the engine of a version."""
        if (counters := self._of_versions.get(release)) is not None:
            counters[type(result)].inc()

    def changed_model(self, change: str) -> None:
        """Count a change that an admin asked for."""
        self._changes[change].inc()

    def shadowed(self, end: str) -> None:
        """Count an answer that a shadow might have given."""
        self._shadowed[end].inc()

    def compared(self, agreement: Agreement) -> None:
        """Count the boxes of two answers that were compared."""
        current_only, shadow_only = agreement.num_unmatched
        self._boxes[BOTH].inc(agreement.num_matched)
        self._boxes[CURRENT_ONLY].inc(current_only)
        self._boxes[SHADOW_ONLY].inc(shadow_only)
        for difference in agreement.score_differences:
            self._differences.observe(abs(difference))


@dataclass(frozen=True)
class VersionObserver:
    """An observer of one version's executor, which tells the server's and counts for the version.

    What nobody asked for (shadows, and what is looked at before a version may serve; their numbers
    are negative) is none of the server's requests.
    """

    inner: Observer
    versions: VersionMetrics
    release: str

    def ran(self, segment: Segment, batch: int, predicted_s: float, seconds: float) -> None:
        """Pass on a run."""
        self.inner.ran(segment, batch, predicted_s, seconds)

    def decided(self, seconds: float) -> None:
        """Pass on a decision."""
        self.inner.decided(seconds)

    def spent(self, part: str, processor_s: float) -> None:
        """Pass on processor time."""
        self.inner.spent(part, processor_s)

    def ended(self, result: Result) -> None:
        """Count how a request ended, and pass it on unless nobody asked for it."""
        self.versions.answered(self.release, result)
        if result.request.id >= 0:
            self.inner.ended(result)

    def failed(self, kind: str) -> None:
        """Pass on a failure."""
        self.inner.failed(kind)
