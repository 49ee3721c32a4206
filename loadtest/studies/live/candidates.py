"""Choice, by simulation, of the fixed operating points that are worth a server of their own.

Every point of a ladder would need its servers and its turns. Which of them could be the best at
some load is known well enough beforehand: from the same requests in the simulator, with segments as
slow as on the shared machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadtest.load.open_loop import make_schedule
from loadtest.policies.named import FIXED
from loadtest.studies.live.report import Reference
from loadtest.studies.live.simulation import simulate_schedule
from loadtest.studies.live.subject import LiveSubject

Promises = Mapping[str, float]
"""Operating point -> in-time accuracy that the simulator promises at one setting."""


def find_candidates(subject: LiveSubject, reference: Reference) -> tuple[str, ...]:
    """Return the operating points that are measured live, by name, in the ladder's order.

    They are those that the settings name, or else as many as they ask for. The requests are those
    of the first round.
    """
    settings, ladder = subject.settings, subject.family.ladder
    labels = tuple(map(ladder.label, ladder.points))
    if settings.fixed:
        return tuple(label for label in labels if label in settings.fixed)
    promises = []
    for number, (arrivals, load) in enumerate(settings.points):
        seed = settings.seed + number
        rate_hz = load * reference.load_hz
        schedule = make_schedule(subject.load(reference, arrivals, rate_hz, seed))
        replay = subject.replay_settings(reference, rate_hz)
        found = {
            label: simulate_schedule(schedule, f"{FIXED}:{label}", replay, seed) for label in labels
        }
        promises.append({label: one.in_time_accuracy for label, one in found.items()})
    chosen = choose(promises, settings.num_fixed)
    return tuple(label for label in labels if label in chosen)


def choose(promises: Sequence[Promises], count: int) -> tuple[str, ...]:
    """Choose up to ``count`` points, of which the best at each setting is best on average.

    One after the other, each is the one that adds most to the mean over settings of the best
    chosen; where none adds anything, the one with the highest mean of its own.
    """
    chosen: list[str] = []
    left = list(promises[0]) if promises else []
    while left and len(chosen) < count:

        def worth(label: str) -> tuple[float, float]:
            among = [*chosen, label]
            best = sum(max(promised[each] for each in among) for promised in promises)
            return best, sum(promised[label] for promised in promises)

        chosen.append(max(left, key=worth))
        left.remove(chosen[-1])
    return tuple(chosen)
