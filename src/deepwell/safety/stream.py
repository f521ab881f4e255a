"""`StreamScanner`: reads a stream with the detectors of whole texts, and holds back no more than what may be forbidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

from deepwell.safety.beginnings import Beginnings, Lexicon
from deepwell.safety.findings import ACTIONS, Action, Decision, Detector, Finding
from deepwell.safety.normalise import Normalised, normalised
from deepwell.safety.runs import Runs

__all__ = ["HOLD_BACK", "Decide", "Released", "StreamRules", "StreamScanner"]

HOLD_BACK: Final = 64
"""Most characters that are held back."""

Decide = Callable[[Sequence[Finding], Sequence[str]], Decision]
"""Makes a decision of findings and of the names of detectors that did not answer."""

# Characters in front of what is new that a scan reads again, and that are kept for a term which began long ago.
_CONTEXT: Final = 224
_KEPT: Final = 4096
# Characters that are kept for a finding which goes on, such as a key of many lines.
_KEPT_OPEN: Final = 5 * _KEPT
# Characters of such a finding from which on it is scanned as seldom as may be.
_LONG_OPEN: Final = 1024
# Characters between two scans if nothing asks for one, and between two that the slow detectors take part in.
_EVERY: Final = 160
_OFTEN: Final = 48
_SAMPLE_EVERY: Final = 384
# A piece of so many characters is no token, and is scanned as it comes.
_LARGE: Final = 40
# A run of so many characters is scanned before it is over.
_LONG_RUN: Final = 32
_BOUNDARY: Final = 24
_OPEN_END: Final = 2
"""A finding that ends so near to the end of the stream may go on."""


def _bracketed(finding: Finding) -> str:
    return f"[{finding.category}]"


class StreamRules:
    """The parts that all streams of one policy share."""

    __slots__ = (
        "decide",
        "detectors",
        "every",
        "hold_back",
        "lexicon",
        "normalise",
        "replacement",
        "sampled",
    )

    def __init__(
        self,
        detectors: Sequence[Detector],
        decide: Decide,
        *,
        terms: Iterable[str] = (),
        sampled: Sequence[Detector] = (),
        replacement: Callable[[Finding], str] = _bracketed,
        normalise: Callable[[str], Normalised] = normalised,
        hold_back: int = HOLD_BACK,
    ) -> None:
        """Makes the rules.

        Args:
            detectors: take part in every scan.
            decide: makes decisions; the one about no findings and no failure is never asked for.
            terms: the terms, as `detectors` find them, that block or redact, none of which leaves whole; and those within
                which these are allowed.
            sampled: slow detectors; take part in a scan about every 400 characters and in the last.
            replacement: returns what stands in the stream for a finding that is redacted.
            hold_back: most characters that are held back.
        """
        self.detectors = tuple(detectors)
        self.decide = decide
        self.sampled = tuple(sampled)
        self.replacement = replacement
        self.normalise = normalise
        self.hold_back = hold_back
        self.every = _EVERY
        self.lexicon = Lexicon(terms, lambda text: normalise(text).views[0].text)

    def also(self, detectors: Sequence[Detector]) -> StreamRules:
        """Returns the same rules with detectors of one request, which take part in every scan. Nothing is built anew.

        Scans then come more often: a system prompt is told by 60 letters in a row, and what comes behind them should not leave.
        """
        rules = copy(self)
        rules.every = _OFTEN
        rules.detectors = (*self.detectors, *detectors)
        return rules

    def replacing(self, replacement: Callable[[Finding], str]) -> StreamRules:
        """Returns the same rules with other words in place of findings that are redacted."""
        rules = copy(self)
        rules.replacement = replacement
        return rules


@dataclass(frozen=True, slots=True)
class Released:
    """A piece of the stream that may leave.

    Attributes:
        text: the piece, redacted.
        decision: the decision about what was found since the last piece, its spans those of the whole stream; None if
            nothing was.
        ended: True if the decision blocks. Nothing leaves the stream behind `text`.
    """

    text: str
    decision: Decision | None = None
    ended: bool = False


@dataclass(slots=True)
class _Cut:
    """Characters of the stream that are replaced."""

    start: int
    end: int
    replacement: str


class StreamScanner:
    """Scans one stream.

    NOTE: Every character passes two cheap automata, of the terms and of the runs that look like numbers, addresses and
    codes. They tell what is held back, and when a scan is due: a term is whole, a run is over, or 160 characters have
    passed. A scan normalises the last 200 characters or so and asks the detectors. What it finds at the very end is decided
    with the next character, since a word or a number may go on. So plain text leaves at once, at about one microsecond a
    character, and no term of the lexicon leaves whole. A text in rot13 or the like is told by its letters and not by its
    form: it is found, but up to 160 characters of it may have left.
    """

    __slots__ = (
        "_base",
        "_beginnings",
        "_cuts",
        "_decided",
        "_ended",
        "_failed",
        "_open",
        "_raw",
        "_released",
        "_rescan",
        "_rules",
        "_runs",
        "_sampled",
        "_scanned",
    )

    def __init__(self, rules: StreamRules) -> None:
        self._rules = rules
        self._beginnings = Beginnings(rules.lexicon)
        self._runs = Runs()
        # The last characters of the stream, of which the first has the position `_base`.
        self._raw = ""
        self._base = 0
        # Positions of the stream.
        self._released = self._scanned = self._sampled = 0
        self._cuts: list[_Cut] = []
        self._decided: list[tuple[Finding, Action]] = []
        self._failed: set[str] = set()
        # Where a finding begins that is redacted and may go on.
        self._open: int | None = None
        self._rescan = self._ended = False

    @property
    def ended(self) -> bool:
        """True once a decision has blocked the stream, or `finish` was called."""
        return self._ended

    @property
    def held(self) -> int:
        """Characters that have come in and not left."""
        return self._base + len(self._raw) - self._released

    def push(self, text: str) -> Released:
        """Takes the next characters, and returns those that may leave.

        Raises:
            ValueError: the stream has ended.
        """
        if self._ended:
            raise ValueError("the stream has ended")
        pieces: list[str] = []
        decisions: list[Decision] = []
        # A long piece is taken in steps, so that no more than one scan's context lies behind the last decision.
        for at in range(0, len(text), self._rules.every):
            released = self._take(text[at : at + self._rules.every], last=False)
            pieces.append(released.text)
            if released.decision is not None:
                decisions.append(released.decision)
            if self._ended:
                break
        return Released("".join(pieces), _joined(decisions), self._ended)

    def pause(self) -> Released:
        """Returns what is held back, as `finish` does. The stream may go on, and is read together with what came before.

        Raises:
            ValueError: the stream has ended.
        """
        if self._ended:
            raise ValueError("the stream has ended")
        return self._take("", last=True)

    def finish(self) -> Released:
        """Returns the rest of the stream.

        Raises:
            ValueError: the stream has ended.
        """
        if self._ended:
            raise ValueError("the stream has ended")
        released = self._take("", last=True)
        self._ended = True
        return released

    def _take(self, text: str, *, last: bool) -> Released:
        end = self._base + len(self._raw)
        self._beginnings.read(text, end)
        self._runs.read(text, end)
        self._raw += text
        end += len(text)
        whole, over = self._beginnings.whole(), self._runs.over()
        since = end - self._scanned
        if self._waits(end) and whole is None and not last:
            return Released("")
        due = self._rescan or over or whole is not None or since >= self._rules.every
        due = due or len(text) >= _LARGE or (self._runs.length >= _LONG_RUN and since >= _LONG_RUN)
        hold = end if last else self._hold(end)
        decision = None
        if due or (last and end):
            firm, provisional, failed = self._scan(end, whole, last=last)
            self._rescan = bool(provisional)
            self._open = self._open if provisional else None
            hold = min([hold, *(finding.start for finding in provisional)])
            decision = self._decided_about(firm, failed)
            if decision is not None and decision.action == "block":
                self._ended = True
                starts = [finding.start for finding, action in decision.findings if action == "block"]
                return Released(self._release(min(starts, default=self._released)), decision, True)
        hold = max(hold, end - self._rules.hold_back)
        return Released(self._release(hold), decision)

    def _waits(self, end: int) -> bool:
        """Tells whether a long finding goes on, and what has come since the last scan may still be held."""
        long = self._open is not None and end - self._open > _LONG_OPEN
        return long and end - self._released <= self._rules.hold_back

    def _hold(self, end: int) -> int:
        """Returns the position from which nothing leaves yet."""
        starts = (self._beginnings.start, self._runs.start)
        return min([end, *(start for start in starts if start is not None)])

    def _scan(
        self, end: int, whole: int | None, *, last: bool
    ) -> tuple[list[Finding], list[Finding], list[str]]:
        """Returns the findings that stand, those that the next character may change, and the detectors that failed first."""
        window, first = self._window(end, whole)
        text = self._rules.normalise(window)
        self._scanned = end
        found, failed = self._asked(self._rules.detectors, text, first)
        firm, provisional = (found, []) if last else self._parted(found, end)
        if last or end - self._sampled >= _SAMPLE_EVERY:
            self._sampled = end
            sampled, more_failed = self._asked(self._rules.sampled, text, first)
            firm, failed = firm + sampled, failed + more_failed
        failed = [name for name in failed if name not in self._failed]
        self._failed.update(failed)
        return firm, provisional, failed

    def _window(self, end: int, whole: int | None) -> tuple[str, int]:
        """Returns the characters to scan, and the position of the first."""
        first = min(self._released, self._scanned, end - _CONTEXT)
        if whole is not None:
            first = min(first, whole - _BOUNDARY)
        if self._open is not None:
            first = min(first, self._open - _BOUNDARY)
        first = max(first, self._base)
        window = self._raw[first - self._base :]
        if not first:
            return window, 0
        # A word that is cut in two must not look like two.
        space = next((at for at in range(min(_BOUNDARY, len(window))) if window[at].isspace()), 0)
        return window[space:], first + space

    @staticmethod
    def _asked(
        detectors: Sequence[Detector], text: Normalised, first: int
    ) -> tuple[list[Finding], list[str]]:
        """Returns what detectors find, and the names of those that failed."""
        found: list[Finding] = []
        failed: list[str] = []
        for detector in detectors:
            try:
                found += [_moved(_trimmed(finding, text.text), first) for finding in detector.scan(text)]
            except Exception:
                failed.append(detector.name)
        return found, failed

    def _parted(self, findings: Sequence[Finding], end: int) -> tuple[list[Finding], list[Finding]]:
        """Returns the findings that stand, and those that the next character may change."""
        folded = self._rules.lexicon.folded
        seen = next((at for at in range(len(self._raw), 0, -1) if folded(self._raw[at - 1])), 0)
        last = folded(self._raw[seen - 1])[-1:] if seen else ""
        going_on = last.isalnum() and last.isascii()
        # A term that has begun before a finding may turn out to be one that is allowed.
        begun = self._beginnings.start
        begun = end if begun is None else begun
        firm: list[Finding] = []
        provisional: list[Finding] = []
        for finding in findings:
            held = end - max(finding.start, self._released)
            is_open = (going_on and finding.end >= self._base + seen) or begun <= finding.start
            (provisional if is_open and held < self._rules.hold_back else firm).append(finding)
        return firm, provisional

    def _decided_about(self, findings: Sequence[Finding], failed: Sequence[str]) -> Decision | None:
        """Returns the decision about findings that are new, and remembers which characters are to be replaced."""
        new: list[Finding] = []
        for finding in findings:
            known = next((one for one in reversed(self._decided) if _same(one[0], finding)), None)
            if known is None:
                new.append(finding)
            elif known[1] == "redact":
                if self._holds_more(known[0].end, finding.end):
                    self._cut(finding, "")
                    self._decided.append((finding, "redact"))
                self._keep_open(finding, "redact")
        if not new and not failed:
            return None
        decision = self._rules.decide(new, failed)
        for finding, action in decision.findings:
            self._decided.append((finding, action))
            self._keep_open(finding, action)
            if action == "redact":
                self._cut(finding, self._rules.replacement(finding))
        return decision

    def _keep_open(self, finding: Finding, action: Action) -> None:
        """Notes a finding that may go on, such as a key of many lines: what follows is scanned together with its beginning."""
        if action == "redact" and finding.end >= self._scanned - _OPEN_END:
            self._open = finding.start
            self._rescan = True

    def _holds_more(self, start: int, end: int) -> bool:
        """Tells whether there is more than punctuation between two positions, by which readings differ about an end."""
        return any(character.isalnum() for character in self._between(start, end))

    def _cut(self, finding: Finding, replacement: str) -> None:
        start = max(finding.start, self._released)
        waiting = next((cut for cut in self._cuts if cut.start <= start <= cut.end), None)
        if waiting is not None and not replacement:
            waiting.end = max(waiting.end, finding.end)
        elif finding.end > start:
            self._cuts.append(_Cut(start, finding.end, replacement))

    def _release(self, until: int) -> str:
        """Returns the characters before a position that have not left, redacted, and forgets what is too long ago."""
        pieces: list[str] = []
        at = self._released
        if self._cuts:
            self._cuts.sort(key=lambda cut: (cut.start, -cut.end))
            rest: list[_Cut] = []
            for cut in self._cuts:
                if cut.start >= until and cut.start >= at:
                    rest.append(cut)
                    continue
                if cut.start >= at:
                    pieces += (self._between(at, cut.start), cut.replacement)
                at = max(at, cut.end)
            self._cuts = rest
        if until > at:
            pieces.append(self._between(at, until))
            at = until
        self._released = at
        count = len(self._raw)
        if count > 2 * _KEPT:
            gone = count - _KEPT
            if self._open is not None:
                gone = max(count - _KEPT_OPEN, min(gone, self._open - _BOUNDARY - self._base), 0)
            self._base += gone
            self._raw = self._raw[gone:]
            self._decided = [one for one in self._decided if one[0].end >= self._base]
        return "".join(pieces)

    def _between(self, start: int, end: int) -> str:
        return self._raw[start - self._base : end - self._base]


def _trimmed(finding: Finding, text: str) -> Finding:
    """Returns a finding of a reading that joins characters without the punctuation behind it, which it joined over."""
    end = finding.end
    while finding.view == "joined" and end > finding.start + 1 and not text[end - 1].isalnum():
        end -= 1
    return finding if end == finding.end else replace(finding, end=end)


def _moved(finding: Finding, by: int) -> Finding:
    return Finding(
        finding.rule, finding.category, finding.start + by, finding.end + by, finding.score, finding.view
    )


def _same(one: Finding, other: Finding) -> bool:
    """Tells whether two scans found the same."""
    return one.rule == other.rule and one.start < other.end and other.start < one.end


def _joined(decisions: Sequence[Decision]) -> Decision | None:
    """Returns one decision for those of one piece, of which only the last can block."""
    if len(decisions) < 2:
        return decisions[0] if decisions else None
    strictest = max(decisions, key=lambda decision: ACTIONS.index(decision.action))
    return Decision(
        strictest.action,
        strictest.layer,
        tuple(one for decision in decisions for one in decision.findings),
        strictest.policy,
        tuple(dict.fromkeys(name for decision in decisions for name in decision.failed)),
    )
