"""Scores of batches of responses: extraction, the fast path in this process, workers for the rest.

Equal (gold, answer) pairs are judged once; scoring of one batch overlaps whatever the caller does
between submit and result.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from decimal import Decimal
from functools import lru_cache

from nsr_fast.errors import InputError
from nsr_fast.reward.boxed import Extraction, extract_boxed
from nsr_fast.reward.judge import quick_judgement
from nsr_fast.reward.lenient import extract_lenient, extract_paper
from nsr_fast.reward.normalise import normalised
from nsr_fast.reward.pool import WorkerPool
from nsr_fast.reward.verdict import Score, Verdict

MAX_ANSWER_CHARS = 2000
EXTRACTORS: dict[str, Callable[[str], Extraction]] = {
    "boxed": extract_boxed,
    "lenient": extract_lenient,
    "paper": extract_paper,
}
_CACHE_SIZE = 65_536

canonical = lru_cache(maxsize=_CACHE_SIZE)(normalised)


class MathVerifier:
    r"""Verifies responses against accepted answers.

    num_workers  worker processes, started at once; they never import torch
    deadline_s   of one answer in a worker; past it the answer is unscored
    extract      "boxed": the last balanced box; "lenient": else "answer is ..." on the last line;
                 "paper": the reference code's rule, down to the last number in the text
    truncated    what a rollout without a stop token is: "wrong": graded as it stands, as the paper
                 does; "mask": unscored
    """

    def __init__(
        self,
        *,
        num_workers: int = 2,
        deadline_s: float = 1.0,
        memory_mb: int = 1024,
        extract: str = "boxed",
        truncated: str = "wrong",
    ) -> None:
        if extract not in EXTRACTORS:
            raise InputError(f"extract: expected one of {', '.join(EXTRACTORS)}, got {extract!r}")
        if truncated not in ("wrong", "mask"):
            raise InputError(f"truncated: expected wrong or mask, got {truncated!r}")
        self._extract, self._masks_truncated = EXTRACTORS[extract], truncated == "mask"
        self._pool = WorkerPool(num_workers, deadline_s=deadline_s, memory_mb=memory_mb)
        self._known: OrderedDict[tuple, Score | Future] = OrderedDict()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def submit(
        self,
        responses: Sequence[str],
        answers: Sequence[object],
        is_truncated: Sequence[bool] | None = None,
    ) -> "PendingScores":
        """Starts scoring; answers[i] is text, a number or a list of accepted answers."""
        is_truncated = [False] * len(responses) if is_truncated is None else is_truncated
        items = [
            self._started(response, answer, cut)
            for response, answer, cut in zip(responses, answers, is_truncated, strict=True)
        ]
        return PendingScores(items, self._count)

    def score(
        self,
        responses: Sequence[str],
        answers: Sequence[object],
        is_truncated: Sequence[bool] | None = None,
    ) -> list[Score]:
        """submit and wait."""
        return self.submit(responses, answers, is_truncated).result()

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

    def _started(self, response: str, answer: object, cut: bool) -> "_Item":
        if cut and self._masks_truncated:
            return _Item(Score(Verdict.UNSCORED, "truncated"), None, cut)
        golds = tuple(dict.fromkeys(map(canonical, accepted_answers(answer))))
        if not golds:
            return _Item(Score(Verdict.UNSCORED, "bad_gold"), None, cut)
        extraction = self._extract(response)
        if extraction.text is None:
            return _Item(Score(Verdict.WRONG, extraction.reason), None, cut)
        if len(extraction.text) > MAX_ANSWER_CHARS:
            known: Score | Future = self._long(golds, extraction.text)
        else:
            known = self._judged(golds, canonical(extraction.text))
        return _Item(known, extraction.text, cut)

    def _long(self, golds: tuple[str, ...], text: str) -> Score:
        """An answer beyond the limit is compared by spelling only."""
        is_equal = len(text) <= 10 * MAX_ANSWER_CHARS and normalised(text) in golds
        if is_equal:
            return Score(Verdict.CORRECT, "equal")
        return Score(Verdict.WRONG, "too_complex")

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
                self._known[key] = score or self._pool.submit(golds, candidate)
                if len(self._known) > _CACHE_SIZE:
                    self._known.popitem(last=False)
            return self._known[key]

    def _count(self, scores: list[Score]) -> None:
        with self._lock:
            self._counts["total"] += len(scores)
            for score in scores:
                self._counts[score.verdict.value] += 1
                if score.reason not in ("equal", "different"):
                    self._counts[f"reason/{score.reason.partition(':')[0]}"] += 1


class _Item:
    """A score, there or on its way, with what it is the score of."""

    __slots__ = ("_known", "_text", "_was_cut")

    def __init__(self, known: Score | Future, text: str | None, was_cut: bool) -> None:
        self._known, self._text, self._was_cut = known, text, was_cut

    def score(self) -> Score:
        known = self._known.result() if isinstance(self._known, Future) else self._known
        is_cut = self._was_cut and known.verdict is Verdict.WRONG
        return Score(known.verdict, "truncated" if is_cut else known.reason, self._text)


class PendingScores:
    """A submitted batch."""

    def __init__(self, items: list[_Item], count: Callable[[list[Score]], None]) -> None:
        self._items, self._count = items, count
        self._scores: list[Score] | None = None

    def result(self) -> list[Score]:
        """Waits for all scores; the workers' deadline bounds the wait."""
        if self._scores is None:
            self._scores = [item.score() for item in self._items]
            self._count(self._scores)
        return self._scores


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` of the values at or below it."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def accepted_answers(answer: object) -> list[str]:
    """The answers as text; unusable ones (empty, neither text nor number) are left out."""
    choices = answer if isinstance(answer, list | tuple) else [answer]
    texts = []
    for choice in choices:
        if isinstance(choice, float):
            texts.append(format(Decimal(repr(choice)), "f"))
        elif isinstance(choice, str | int) and not isinstance(choice, bool):
            boxed = extract_boxed(choice).text if "\\boxed" in str(choice) else None
            texts.append(boxed or str(choice))
    return [text for text in texts if canonical(text)]
