"""The depth price: what a second of engine time buys others in depth, by how much work there is.

Who is served at a quicker exit leaves time for others to go deeper. How much that is worth says the
*fluid problem*: of operating points with ``c`` engine seconds a request and accuracy ``a``, choose
the mix of highest mean accuracy that the engine can do, with ``r`` arrivals per second,

    maximise mean a   subject to   r * mean c <= 1

Only points on the concave envelope of all (c, a) are in such a mix, and its dual ``p*`` is the
slope of the envelope where ``r * c = 1``: 0 if the engine can do all at the deepest point.

The dual alone would be a poor price. It jumps from one slope of the envelope to the next with a
rate that is known within a fifth, and nothing brings a backlog back that grows meanwhile. So the
price depends on the backlog. Take the backlog ``w``, in seconds of work, as a diffusion that is
kept below a limit ``L``, and choose the point of arrivals by ``w``. With ``V(w)`` the relative
value of a backlog and ``p = -V'`` the price, ``g``, the most accuracy per second that there is in
the long run, solves (Hamilton, Jacobi, Bellman)

    g = H(p) - v p' / 2,   H(p) = max over points of r (a - p c) + p,   p(0) = 0,   p(L) = p_max

where ``v = r c^2 cv2`` is the variance of work per second. ``H`` is convex, least at ``p*``, and
linear between slopes of the envelope, so ``w`` as a function of ``p`` is a sum of logarithms:

    w(p) = integral from 0 to p of  v / 2 / (H(q) - g) dq,   and g is what makes w(p_max) = L

The price therefore rises within a request or two of work from 0, as an engine that is soon idle has
time to spare, to ``p*``, stays around it over most backlogs, a little lower in short ones and a
little higher in long ones, and reaches ``p_max``, the envelope's steepest slope, at ``L``, where
everybody leaves at the quickest point. An error in the rate only shifts the backlog at which the
price is right. With one point instead of an envelope and ``p_max`` what a lost request costs, this
is the gambler's ruin of ``opportunity_cost``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

CostAndAp = tuple[float, float]
"""An operating point as the fluid problem sees it: engine seconds a request needs, and its AP."""

TOLERANCE = 0.01
"""Relative error of the limit at which ``g`` is near enough."""
MAX_STEPS = 12
"""Largest number of steps of Newton's method towards ``g``; four or five are usual."""
MAX_STRIDE = 8.0
"""Largest step down of the logarithm of the gap between ``g`` and the least of ``H``."""
MIN_LOG_GAP = -40.0
"""Least logarithm of that gap. What backlog is left over then is spent where ``H`` is least."""
MIN_RATE_HZ = 1e-9
"""Arrivals per second below which it is as if nothing arrived."""
MIN_DRIFT = 1e-6
"""Drift of the backlog, in seconds per second, below which it counts as none."""
MIN_GAIN = 1e-6
"""Accuracy that another point must add to be better: less is what floats make of equal ones."""


def concave_envelope(points: Iterable[CostAndAp]) -> list[CostAndAp]:
    """Return the points of the increasing upper concave envelope, quickest first.

    It begins with the quickest point, of equals the most accurate one; there must be one.
    """
    envelope: list[CostAndAp] = []
    for point in sorted(points):
        cost_s, ap = point
        if envelope and ap < envelope[-1][1] + MIN_GAIN:
            continue
        if envelope and cost_s == envelope[-1][0]:
            envelope.pop()
        while len(envelope) > 1:
            (before_s, before), (last_s, last) = envelope[-2:]
            if (last - before) * (cost_s - last_s) > (ap - last) * (last_s - before_s):
                break
            envelope.pop()
        envelope.append(point)
    return envelope


def _slope(left: CostAndAp, right: CostAndAp) -> float:
    """Return the accuracy per second that the right point buys over the left one."""
    return (right[1] - left[1]) / (right[0] - left[0])


def fluid_dual(envelope: Sequence[CostAndAp], rate_hz: float) -> float:
    """Return the dual of the fluid problem, ``p*``: the price in the long run.

    ``envelope`` is as ``concave_envelope`` returns it.
    """
    dual = 0.0
    for place in range(len(envelope) - 1, 0, -1):
        if rate_hz * envelope[place][0] <= 1.0:
            break
        dual = _slope(envelope[place - 1], envelope[place])
    return dual


_Piece = tuple[float, float, float, float, float, float]
"""A piece of ``H``, the prices for which one operating point is the best for arrivals: the price at
its start and at its end; there ``H``, less the least of ``H``; the drift, seconds of backlog that
go per second, which is its slope, negative if more come; ``v / 2``. A tuple, for speed."""


class DepthPrice:
    """The price of engine time by backlog, in accuracy per second."""

    __slots__ = ("_cv2", "_envelope", "_gap", "_limit_s", "_max_price", "_pieces", "_rate_hz")

    def __init__(
        self, envelope: Sequence[CostAndAp], rate_hz: float, cv2: float, limit_s: float
    ) -> None:
        """Take the problem. The price is 0 if there is one point only, or nothing arrives.

        ``envelope`` is as ``concave_envelope`` returns it. ``cv2`` is the squared coefficient of
        variation of the times between arrivals, and ``limit_s`` the backlog at which everybody
        leaves at the quickest point; both are positive.
        """
        self._envelope, self._rate_hz, self._cv2, self._limit_s = envelope, rate_hz, cv2, limit_s
        known = len(envelope) > 1 and rate_hz > MIN_RATE_HZ
        self._max_price = _slope(envelope[0], envelope[1]) if known else 0.0
        self._gap = 0.0
        self._pieces: list[tuple[float, _Piece]] | None = None if known else []
        """Pieces, from price 0 on, each with the backlog from its start to its end; None until a
        price is asked for that depends on them."""

    def _solve(self) -> list[tuple[float, _Piece]]:
        """Find the gap, and return the pieces."""
        pieces, limit_s = _pieces_of(self._envelope, self._rate_hz, self._cv2), self._limit_s
        self._gap, lengths_s = _solve(pieces, limit_s)
        found = [*zip(lengths_s, pieces, strict=True)]
        least = next((i for i, piece in enumerate(pieces) if piece[4] > 0.0), len(pieces))
        rest_s = limit_s - sum(lengths_s)
        if rest_s > 0.0:  # the price stays where H is least
            dual = pieces[least - 1][1] if least else 0.0
            found.insert(least, (rest_s, (dual, dual, 0.0, 0.0, 0.0, math.inf)))
        return found

    def is_highest(self, backlog_s: float) -> bool:
        """Return whether the price is as high as it gets, whatever the pieces are."""
        return backlog_s > (1.0 + TOLERANCE) * self._limit_s

    def at(self, backlog_s: float) -> float:
        """Return the price of a second at a backlog, in accuracy per second."""
        if self.is_highest(backlog_s):
            return self._max_price
        if self._pieces is None:
            self._pieces = self._solve()
        for length_s, piece in self._pieces:
            if backlog_s < length_s:
                price, _, start, _, drift, half_variance = piece
                relative_s = backlog_s / half_variance
                if abs(drift) < MIN_DRIFT:
                    return price + (start + self._gap) * relative_s
                return price + (start + self._gap) * math.expm1(drift * relative_s) / drift
            backlog_s -= length_s
        return self._max_price


def _pieces_of(envelope: Sequence[CostAndAp], rate_hz: float, cv2: float) -> list[_Piece]:
    """Return the pieces of ``H`` up to the steepest slope of the envelope, from price 0 on."""
    lines = []
    least, price, variance = math.inf, 0.0, 0.5 * rate_hz * cv2
    for place in range(len(envelope) - 1, 0, -1):
        cost_s, ap = envelope[place]
        start_price, price = price, _slope(envelope[place - 1], envelope[place])
        drift, level = 1.0 - rate_hz * cost_s, rate_hz * ap
        start, end = level + drift * start_price, level + drift * price
        least = min(least, start, end)
        lines.append((start_price, price, start, end, drift, variance * cost_s * cost_s))
    return [(p, q, max(0.0, h - least), max(0.0, k - least), b, d) for p, q, h, k, b, d in lines]


def _solve(pieces: Sequence[_Piece], limit_s: float) -> tuple[float, list[float]]:
    """Return the gap between the least of ``H`` and ``g``, and the backlog of each piece.

    Their sum is about the limit, or less if the gap would be next to nothing. The gap is found by
    Newton's method for its logarithm, of which that sum is a convex function.
    """
    # What does not depend on the gap: H at both ends, and the factor of the logarithm; 0 without a
    # drift, where the backlog is the price's rise over H instead, times v / 2.
    ends = [
        (
            *(start, end, half_variance / drift if abs(drift) >= MIN_DRIFT else 0.0),
            half_variance * (end_price - start_price),
        )
        for start_price, end_price, start, end, drift, half_variance in pieces
    ]
    # As if H were at its least everywhere; it is not, so that the gap is no larger.
    log_gap = math.log(sum(rise for *_, rise in ends) / limit_s)
    gap = 0.0
    for _ in range(MAX_STEPS):
        log_gap = max(log_gap, MIN_LOG_GAP)
        gap, total_s, slope_s = math.exp(log_gap), 0.0, 0.0
        for start, end, relative, rise in ends:
            start_gap = start + gap
            if relative:
                end_gap = end + gap
                total_s += relative * math.log(end_gap / start_gap)
                slope_s += relative * gap * (1.0 / end_gap - 1.0 / start_gap)
            else:
                length_s = rise / start_gap
                total_s += length_s
                slope_s -= length_s * gap / start_gap
        short_s = limit_s - total_s
        if abs(short_s) <= TOLERANCE * limit_s or (short_s > 0.0 and log_gap == MIN_LOG_GAP):
            break
        if slope_s >= 0.0:  # too flat beside the gap for floats to tell its ends apart
            break
        log_gap += max(-MAX_STRIDE, short_s / slope_s)
    return gap, [
        relative * math.log((end + gap) / (start + gap)) if relative else rise / (start + gap)
        for start, end, relative, rise in ends
    ]
