"""Scores of responses: extraction, the fast path in this process, workers for the rest.

Equal (gold, answer) pairs are judged once, unless a worker could not decide. What a worker judges
overlaps whatever the caller does between begin and result.
"""

import atexit
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cache, partial

from nsr_fast.data.boxed import Extraction, extract_boxed
from nsr_fast.reward.math.answer import CACHE_SIZE, accepted_answers, canonical
from nsr_fast.reward.math.judge import quick_judgement
from nsr_fast.reward.math.pool import WorkerPool
from nsr_fast.reward.math.spelling import normalised
from nsr_fast.reward.verdict import Score, Verdict

MAX_ANSWER_CHARS = 2000
ExtractionRule = Callable[[str], Extraction]


class PendingScore:
    """A score, there or on its way."""

    __slots__ = ("_known", "_text")

    def __init__(self, known: Score | Future, text: str | None = None) -> None:
        self._known, self._text = known, text

    def result(self) -> Score:
        """Waits for the score; the workers' deadline bounds the wait."""
        known = self._known.result() if isinstance(self._known, Future) else self._known
        return replace(known, extracted=self._text)


class MathVerifier:
    r"""Verifies responses against accepted answers.

    num_workers  worker processes, started at once; they never import torch
    deadline_s   of one answer in a worker; past it the answer is unscored
    """

    def __init__(
        self, *, num_workers: int = 2, deadline_s: float = 1.0, memory_mb: int = 1024
    ) -> None:
        self._pool = WorkerPool(num_workers, deadline_s=deadline_s, memory_mb=memory_mb)
        self._known: OrderedDict[tuple, Score | Future] = OrderedDict()
        self._lock = threading.RLock()  # a future that is done calls back at once
        self._counts: Counter[str] = Counter()

    def begin(
        self, response: str, answer: object, extract: ExtractionRule = extract_boxed
    ) -> PendingScore:
        """Starts scoring one response; `answer` is text, a number or a list of accepted answers."""
        golds = tuple(dict.fromkeys(map(canonical, accepted_answers(answer))))
        if not golds:
            return PendingScore(Score(Verdict.UNSCORED, "bad_gold"))
        extraction = extract(response)
        if extraction.text is None:
            return PendingScore(Score(Verdict.WRONG, extraction.reason))
        text = extraction.text
        if len(text) <= MAX_ANSWER_CHARS:
            return PendingScore(self._judged(golds, canonical(text)), text)
        # Beyond the limit the spelling alone is compared.
        is_equal = len(text) <= 10 * MAX_ANSWER_CHARS and normalised(text) in golds
        score = (Verdict.CORRECT, "equal") if is_equal else (Verdict.WRONG, "too_complex")
        return PendingScore(Score(*score), text)

    def score(
        self,
        responses: Sequence[str],
        answers: Sequence[object],
        extract: ExtractionRule = extract_boxed,
    ) -> list[Score]:
        """begin every response, wait for all and count them."""
        pending = [self.begin(r, a, extract) for r, a in zip(responses, answers, strict=True)]
        scores = [one.result() for one in pending]
        self.count(scores)
        return scores

    def unreadable(self, golds: Sequence[str]) -> list[str]:
        """Those of normalised golds with a formula that no worker can read."""
        pending = [(gold, self._pool.submit((gold,), "")) for gold in golds]
        return [
            gold for gold, judged in pending if judged.result().reason in ("bad_gold", "deadline")
        ]

    def count(self, scores: Sequence[Score]) -> None:
        """Adds scores to the statistics."""
        with self._lock:
            self._counts["total"] += len(scores)
            for score in scores:
                self._counts[score.verdict.value] += 1
                if score.reason not in ("equal", "different"):
                    self._counts[f"reason/{score.reason.partition(':')[0]}"] += 1

    def statistics(self) -> dict[str, float]:
        """Counts by verdict and reason, share decided without a worker, worker latency in ms."""
        with self._lock:
            counts = dict(self._counts)
        total = counts.pop("total", 0)
        statistics = {f"verify/{name}": float(n) for name, n in sorted(counts.items())}
        statistics["verify/fast_share"] = 1 - counts.get("in_worker", 0) / total if total else 1.0
        statistics["verify/kills"] = float(self._pool.num_kills)
        if latencies := list(self._pool.latencies_ms):
            statistics["verify/p50_ms"] = quantile(latencies, 0.5)
            statistics["verify/p99_ms"] = quantile(latencies, 0.99)
        return statistics

    def wait_ready(self) -> None:
        """Waits until the workers serve, about a second after the start; needed for timing only."""
        self._pool.wait_ready()

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()

    def _judged(self, golds: tuple[str, ...], candidate: str) -> Score | Future:
        """The known score of the pair, or the future of the one request made for it."""
        key = (golds, candidate)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        score = quick_judgement(golds, candidate)
        with self._lock:
            if key not in self._known:
                self._counts["in_worker"] += score is None
                known = self._known[key] = score or self._pool.submit(golds, candidate)
                if len(self._known) > CACHE_SIZE:
                    self._known.popitem(last=False)
                if isinstance(known, Future):
                    known.add_done_callback(partial(self._forget_undecided, key))
                return known
            return self._known[key]

    def _forget_undecided(self, key: tuple, judged: Future) -> None:
        """What a worker could not decide this time, late or out of memory, is asked again."""
        score = judged.result()
        if score.verdict is Verdict.UNSCORED and score.reason != "bad_gold":
            with self._lock:
                self._known.pop(key, None)


@cache
def shared_verifier() -> MathVerifier:
    """The one verifier of this process, closed at its end."""
    verifier = MathVerifier()
    atexit.register(verifier.close)
    return verifier


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` of the values at or below it."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
