"""When the batches of a destination are tried again: one schedule for batches in memory and on disk.

A batch that fails while others are accepted has a retry time of its own. A failure that concerns the whole destination
pauses all batches.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from byline.export.delivery.messages import Outcome

_MAX_DELAY: Final = 60.0
#: Seconds for which a destination that has refused keys or URL is left alone.
_MISCONFIGURED_DELAY: Final = 300.0
#: Seconds until a batch is looked at again that another process was sending.
_LOCKED_DELAY: Final = 1.0


def retry_delay(failures: int) -> float:
    """Return the seconds until the next attempt: doubled with each failure, and spread at random."""
    return float(min(2.0 ** min(failures, 10), _MAX_DELAY) * random.uniform(0.7, 1.3))  # noqa: S311 - no secret


class _BatchRetry:
    """The state of one batch."""

    __slots__ = ("due", "expires", "failures", "failures_alone", "is_set_aside", "is_tried_last", "reason")

    def __init__(self, expires: float = 0.0) -> None:
        self.due = 0.0
        self.expires = expires
        self.failures = 0
        self.reason = ""
        #: Whether other batches were accepted after this one had failed, and the number of failures since.
        self.is_set_aside = False
        self.failures_alone = 0
        #: Whether the last attempt before the end of the process was made.
        self.is_tried_last = False


class RetrySchedule:
    """The retry times of one destination.

    Args:
        delay: Returns the seconds until the next attempt, by the number of failures before.
        clock: Tells the time.
    """

    def __init__(self, *, delay: Callable[[int], float], clock: Callable[[], float]) -> None:
        self._delay = delay
        self._clock = clock
        self._batches: dict[str, _BatchRetry] = {}
        #: Failures of the whole destination in a row, and why.
        self._failures = 0
        self._reason = ""
        #: Until when no request is made, and until when the destination asked for none.
        self.paused_until = 0.0
        self.asked_until = 0.0

    def add_batch(self, key: str, expires: float) -> None:
        """Add a batch, and the moment after which a failure drops the batch."""
        self._batches[key] = _BatchRetry(expires)

    def replace_batch(self, key: str, parts: Iterable[str]) -> None:
        """Replace a batch by parts that expire at the same moment."""
        whole = self._batches.pop(key, _BatchRetry())
        for part in parts:
            self.add_batch(part, whole.expires)

    def rank_batches(self, keys: list[str], *, everything: bool, is_ending: bool) -> list[str]:
        """Return the batches to try now, in order.

        Batches that failed are tried after the others, so that they cannot use up the attempts of each round.

        Args:
            keys: All batches that wait. Others are forgotten.
            everything: Whether batches are tried before they are due.
            is_ending: Whether each batch is tried only once more.
        """
        now = self._clock()
        present = set(keys)
        for key, retry in list(self._batches.items()):
            # Another thread may have added a batch since the keys were listed; that has not failed yet.
            if retry.reason and key not in present:
                self._batches.pop(key, None)
        fresh = _BatchRetry()
        ranked = []
        for key in keys:
            retry = self._batches.get(key, fresh)
            if (everything or retry.due <= now) and not (is_ending and retry.is_tried_last):
                ranked.append((retry.is_set_aside if everything else retry.failures, key))
        return [key for _, key in sorted(ranked)]

    def next_due(self, keys: Iterable[str]) -> float | None:
        """Return when the first of these batches is due, ``None`` if there is none."""
        fresh = _BatchRetry()
        dues = [self._batches.get(key, fresh).due for key in keys]
        return max(self.paused_until, min(dues)) if dues else None

    def next_retry(self) -> float | None:
        """Return when the first batch that has failed is due, ``None`` if none has failed."""
        dues = [retry.due for retry in self._batches.values() if retry.failures]
        return max(self.paused_until, min(dues)) if dues else None

    def postpone_batch(self, key: str) -> None:
        """Leave a batch to the process that has locked the file."""
        retry = self._batches.get(key)
        if retry is not None:
            retry.due = self._clock() + _LOCKED_DELAY

    def failures_alone(self, key: str) -> int:
        """Return how often a batch has failed while others were accepted."""
        retry = self._batches.get(key)
        return 0 if retry is None else retry.failures_alone

    def note_success(self, key: str) -> None:
        """End the pause of the destination, because a batch was accepted."""
        self._batches.pop(key, None)
        self._failures = 0
        self.paused_until = self.asked_until = 0.0
        for retry in self._batches.values():
            retry.is_set_aside = retry.is_set_aside or retry.failures > 0

    def note_failure(self, key: str, outcome: Outcome, *, in_a_row: bool, is_ending: bool) -> bool:
        """Set the time of the next attempt. Returns whether the whole destination is paused.

        Args:
            key: The batch.
            outcome: The outcome of the attempt.
            in_a_row: Whether so many batches have failed that the destination is at fault.
            is_ending: Whether this was the last attempt.
        """
        now = self._clock()
        retry = self._batches.setdefault(key, _BatchRetry())
        retry.is_tried_last = is_ending
        retry.reason = outcome.reason
        if not outcome.is_destination_wide:
            retry.due = now + self._delay(retry.failures)
            retry.failures += 1
            retry.failures_alone += retry.is_set_aside
            if not in_a_row:
                return False
        wait = max(outcome.wait or 0.0, self._delay(self._failures))
        if outcome.is_misconfigured and not outcome.is_retryable:
            wait = max(wait, _MISCONFIGURED_DELAY)
        self._failures += 1
        self._reason = outcome.reason
        self.paused_until = now + wait
        self.asked_until = self.paused_until if outcome.wait else 0.0
        return True

    def list_expired(self, keys: Iterable[str]) -> list[str]:
        """Return the batches that were tried for long enough. A server that asks to wait is waited for."""
        now = self._clock()
        expired = []
        for key in keys:
            retry = self._batches.get(key)
            if retry is None or not (retry.failures or self.paused_until > now):
                continue
            if self.asked_until > now:
                retry.expires = max(retry.expires, self.asked_until)
            elif retry.expires <= now:
                expired.append(key)
        return expired

    def count_reasons(self, waiting: int) -> Counter[str]:
        """Return the number of batches by the reason for which they wait.

        Args:
            waiting: How many batches wait in all.
        """
        if self._failures and waiting:
            return Counter({self._reason: waiting})
        return Counter(retry.reason for retry in list(self._batches.values()) if retry.reason)
