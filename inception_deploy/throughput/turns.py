"""Whose turn it is: rounds of blocks in every order, and layouts in memory that change places.

Of two sessions on one graph the one that was loaded later may be faster by a percent: which pages
the weights lie on decides on cache conflicts, and stays as it is for a session's whole life. Such
differences are of the layout, not of the graph (Mytkowicz, Diwan, Hauswirth, Sweeney, "Producing
Wrong Data Without Doing Anything Obviously Wrong!", ASPLOS 2009). So a measurement is cut into a
few parts, and between them all sessions are closed and loaded anew, in the reverse order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from inception_deploy.progress import Progress
from inception_deploy.throughput.trial import BLOCK_SECONDS, Trial

__all__ = ["LAYOUTS", "MIN_ROUNDS", "alternate", "layouts", "order"]

MIN_ROUNDS = 5
LAYOUTS = (4, 2)
"""How many layouts a measurement has, the more the better; even, so that each candidate is loaded
early as often as late."""
LAYOUT_ROUNDS = 2
"""At least so many rounds are expected in each of them, and made even when time has run out."""
RELOAD_SHARE = 0.5
"""Loading anew takes at most this share of the measurement beside it."""

T = TypeVar("T")


def order(items: Sequence[T], done: int) -> list[T]:
    """The items as the round after `done` others takes them.

    Two rounds mirror each other, the next two start one further: over 2·n rounds every item has
    every place twice, and follows every other one equally often on either side.
    """
    first = done // 2 % len(items)
    turned = [*items[first:], *items[:first]]
    return turned[::-1] if done % 2 else turned


def layouts(trials: Sequence[Trial], seconds: float) -> int:
    """How many layouts `seconds` of measurement are divided among; 1 where none can be changed."""
    reloading = sum(trial.reload_seconds for trial in trials)
    if not any(trial.candidate.sessions for trial in trials):
        return 1
    rounds = max(MIN_ROUNDS, seconds / sum(trial.block_seconds for trial in trials))
    for count in LAYOUTS:
        if rounds >= count * LAYOUT_ROUNDS and (count - 1) * reloading <= RELOAD_SHARE * seconds:
            return count
    return 1


def alternate(
    trials: Sequence[Trial], seconds: float, clock: Callable[[], float], listener: Progress
) -> None:
    """Rounds of blocks, at least `MIN_ROUNDS`, until `seconds` of them have passed.

    A machine that stalls can use up the time of layouts to come: they have `LAYOUT_ROUNDS` rounds
    all the same, because what was measured is averaged over all of them.

    Raises:
        StageError: a candidate failed.
    """
    count = layouts(trials, seconds)

    def rounds() -> Iterator[int]:
        spent, done = 0.0, 0
        for layout in range(count):
            if layout:
                _lay_out_anew(trials if layout % 2 == 0 else trials[::-1])
            part = (layout + 1) / count
            least = max(done + LAYOUT_ROUNDS, int(MIN_ROUNDS * part))
            while done < least or spent < seconds * part:
                started = clock()
                yield done
                spent += clock() - started
                done += 1

    # a block lasts about BLOCK_SECONDS; the display may end early or late, the measurement not
    expected = max(MIN_ROUNDS, round(seconds / (BLOCK_SECONDS * len(trials))))
    for done in listener.track(rounds(), f"measuring batch {trials[0].batch}", expected):
        for trial in order(trials, done):
            trial.block()


def _lay_out_anew(trials: Sequence[Trial]) -> None:
    """Close all sessions, then load them in the order of `trials`, and warm them up again."""
    for trial in trials:
        for session in trial.candidate.sessions:
            session.close()
    for trial in trials:
        for session in trial.candidate.sessions:
            session.load()
    for trial in trials:
        trial.new_layout()
