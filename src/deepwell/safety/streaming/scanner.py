"""`StreamScanner`: reads a stream with the detectors of whole texts, and holds back no more than what may be forbidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from deepwell.safety.findings import Action, Decision, Finding
from deepwell.safety.normalise import Normalised
from deepwell.safety.seams import crosses
from deepwell.safety.streaming.beginnings import Beginnings
from deepwell.safety.streaming.buffer import OutputBuffer
from deepwell.safety.streaming.released import Released, at_most, joined, together
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.streaming.runs import Runs
from deepwell.safety.streaming.scans import BOUNDARY, asked, from_word
from deepwell.safety.streaming.values import OpenValues

__all__ = ["StreamScanner"]

# Characters in front of what is new that a scan reads again.
_CONTEXT: Final = 224
# Characters of a finding that goes on, from which on it is scanned as seldom as may be.
_LONG_OPEN: Final = 1024
# Characters between two scans that the slow detectors take part in.
_SAMPLE_EVERY: Final = 384
# A piece of so many characters is no token, and is scanned as it comes.
_LARGE: Final = 40
# A run of so many characters is scanned before it is over.
_LONG_RUN: Final = 32
_OPEN_END: Final = 2
"""A finding that ends so near to the end of the stream may go on."""


class StreamScanner:
    """Scans one stream.

    NOTE: Every character passes two cheap automata, of the terms and of the runs that look like numbers, addresses and
    codes, and every token the expressions of values that the policy acts on (`OpenValues`). They tell what is held back, and
    when a scan is due: a term or a value is whole, a run is over, or 160 characters have passed. The first piece is always
    scanned, so that a detector that does not work is known before anything leaves; what slow ones find in it does not count.
    A scan normalises the last 200 characters or so and asks the detectors. What it finds at the very end is decided with the
    next character, since a word or a number may go on. So plain text leaves at once, at about one microsecond a character,
    no term of the lexicon leaves whole, and nothing of a value of at most 64 characters leaves. Where the stream ends, a value
    that has begun is redacted: an answer may be cut off within one. A text in rot13 or the like
    is told by its letters and not by its form: it is found, but up to 160 characters of it may have left.
    """

    __slots__ = (
        "_before",
        "_beginnings",
        "_buffer",
        "_decided",
        "_ended",
        "_failed",
        "_last",
        "_open",
        "_rescan",
        "_rules",
        "_runs",
        "_sampled",
        "_scanned",
        "_values",
    )

    def __init__(self, rules: StreamRules, before: str = "") -> None:
        """Makes the scanner.

        Args:
            before: the end of a text that the reader has just read. A term that begins there does not end in the stream.
        """
        self._rules = rules
        self._before = before
        self._beginnings = Beginnings(rules.lexicon)
        if before:
            self._beginnings.read(before, -len(before))
            self._beginnings.whole()
        self._runs = Runs()
        self._values = OpenValues(rules.values, rules.lexicon.folded, rules.hold_back)
        self._buffer = OutputBuffer()
        # Positions of the stream.
        self._scanned = self._sampled = 0
        self._decided: list[tuple[Finding, Action]] = []
        self._failed: set[str] = set()
        # What the last scan has read, and the position of its first character.
        self._last: tuple[Normalised, int] | None = None
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
        return self._buffer.end - self._buffer.released

    def push(self, text: str) -> Released:
        """Takes the next characters, and returns those that may leave.

        Raises:
            ValueError: the stream has ended.
        """
        if self._ended:
            raise ValueError("the stream has ended")
        every = self._rules.every
        if len(text) <= every:
            return self._take(text, last=False) if text else Released("")
        pieces: list[Released] = []
        # A long piece is taken in steps, so that no more than one scan's context lies behind the last decision.
        for at in range(0, len(text), every):
            pieces.append(self._take(text[at : at + every], last=False))
            if self._ended:
                break
        return joined(pieces)

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
        end = self._buffer.end
        self._beginnings.read(text, end)
        self._runs.read(text, end)
        self._values.read(text, end)
        self._buffer.append(text)
        end += len(text)
        whole = self._beginnings.whole()
        over = self._runs.over() | self._values.whole()
        since = end - self._scanned
        if self._waits(end) and whole is None and not last:
            return Released("")
        due = not self._scanned or self._rescan or over or whole is not None or since >= self._rules.every
        # More of a value has come than is held back, and it is not whole.
        overdue = self._values.start is not None and end - self._values.start > self._rules.hold_back
        due = due or overdue or len(text) >= _LARGE or (self._runs.length >= _LONG_RUN and since >= _LONG_RUN)
        hold = end if last else self._hold(end)
        decision = None
        if due or (last and end):
            firm, provisional, failed = self._scan(end, whole, last=last)
            self._rescan = bool(provisional)
            self._open = self._open if provisional or overdue else None
            hold = min([hold, *(finding.start for finding in provisional)])
            decision = self._decided_about(firm, failed)
            until = end
            blocked = False
            if decision is not None and decision.action == "block":
                blocked = True
                starts = [finding.start for finding, action in decision.findings if action == "block"]
                until = min(starts, default=self._buffer.released)
            if blocked or last or overdue:
                decision = self._broken_off(until, decision)
            if decision is not None and decision.action == "block":
                self._ended = True
                return Released(self._release(until if blocked else self._buffer.released), decision, True)
        hold = max(hold, end - self._rules.hold_back)
        return Released(self._release(hold), decision)

    def _waits(self, end: int) -> bool:
        """Tells whether a long finding goes on, and what has come since the last scan may still be held."""
        long = self._open is not None and end - self._open > _LONG_OPEN
        return long and end - self._buffer.released <= self._rules.hold_back

    def _hold(self, end: int) -> int:
        """Returns the position from which nothing leaves yet."""
        term, before = self._beginnings.start, None
        if term is not None and term > self._buffer.released:
            # If the term ends the stream, it ends within the value that stands right before it.
            last = self._buffer.between(term - 1, term)
            before = self._values.start_before(term) if "!" <= last <= "~" else None
        starts = (term, before, self._runs.start, self._values.start)
        return min([end, *(start for start in starts if start is not None)])

    def _scan(
        self, end: int, whole: int | None, *, last: bool
    ) -> tuple[list[Finding], list[Finding], list[str]]:
        """Returns the findings that stand, those that the next character may change, and the detectors that failed first."""
        text, first = self._last = self._text(end, whole)
        is_first, self._scanned = not self._scanned, end
        found, failed = asked(self._rules.detectors, text, first)
        if self._before:
            found += self._crossing(end)
        firm, provisional = (found, []) if last else self._parted(found, end)
        is_sample = last or end - self._sampled >= _SAMPLE_EVERY
        if is_sample or is_first:
            sampled, more_failed = asked(self._rules.sampled, text, first)
            failed += more_failed
            # A first token is asked about only to see who answers: it is too short to be judged alone.
            firm = firm + sampled if is_sample else firm
        self._sampled = end if is_sample else self._sampled
        failed = [name for name in failed if name not in self._failed]
        self._failed.update(failed)
        return firm, provisional, failed

    def _crossing(self, end: int) -> list[Finding]:
        """Returns the terms that begin in the text before the stream, as far as they are in the stream."""
        if end > _CONTEXT:
            self._before = ""
            return []
        text = self._before + self._buffer.between(0, end)
        seam = len(self._before)
        terms = [one for one in self._rules.detectors if one.name == "terms"]
        found, _ = asked(terms, self._rules.normalise(text), -seam)
        return [
            replace(one, start=0) for one in found if crosses(text, one.start + seam, one.end + seam, seam)
        ]

    def _broken_off(self, end: int, decision: Decision | None) -> Decision | None:
        """Redacts the value that has begun before a position behind which nothing leaves, and adds that to a decision."""
        if not self._rules.endings or end <= self._buffer.released:
            return decision
        text, first = self._text(end, None) if end < self._scanned or self._last is None else self._last
        heads, failed = asked(self._rules.endings, text, first)
        known = [one for one, action in self._decided if action == "redact"]
        heads = [one for one in heads if not any(_covers(other, one) for other in known)]
        failed = [name for name in failed if name not in self._failed]
        self._failed.update(failed)
        told = self._decided_about(heads, failed, most="redact")
        decisions = [one for one in (decision, told) if one is not None]
        return together(decisions) if decisions else None

    def _text(self, end: int, whole: int | None) -> tuple[Normalised, int]:
        """Returns what stands before a position and is to be scanned, and the position of its first character."""
        first = self._first(end, whole)
        window = self._buffer.between(first, end)
        cut = from_word(window) if first else 0
        return self._rules.normalise(window[cut:]), first + cut

    def _first(self, end: int, whole: int | None) -> int:
        """Returns the position of the first character to scan."""
        first = min(self._buffer.released, self._scanned, end - _CONTEXT)
        if whole is not None:
            first = min(first, whole - BOUNDARY)
        if self._open is not None:
            first = min(first, self._open - BOUNDARY)
        return max(first, self._buffer.base)

    def _parted(self, findings: Sequence[Finding], end: int) -> tuple[list[Finding], list[Finding]]:
        """Returns the findings that stand, and those that the next character may change."""
        folded = self._rules.lexicon.folded
        text = self._buffer.text
        seen = next((at for at in range(len(text), 0, -1) if folded(text[at - 1])), 0)
        last = folded(text[seen - 1])[-1:] if seen else ""
        going_on = last.isalnum() and last.isascii()
        # A term that has begun before a finding may turn out to be one that is allowed, and a value a longer one.
        begun = min(one for one in (self._beginnings.start, self._values.start, end) if one is not None)
        firm: list[Finding] = []
        provisional: list[Finding] = []
        for finding in findings:
            held = end - max(finding.start, self._buffer.released)
            is_open = (going_on and finding.end >= self._buffer.base + seen) or begun <= finding.start
            (provisional if is_open and held < self._rules.hold_back else firm).append(finding)
        return firm, provisional

    def _decided_about(
        self, findings: Sequence[Finding], failed: Sequence[str], most: Action = "block"
    ) -> Decision | None:
        """Returns the decision about findings that are new, and remembers which characters are to be replaced.

        Args:
            most: strictest action that is taken.
        """
        new: list[Finding] = []
        for finding in findings:
            known = next((one for one in reversed(self._decided) if _same(one[0], finding)), None)
            if known is None:
                new.append(finding)
            elif known[1] == "redact":
                if self._holds_more(known[0].end, finding.end):
                    self._buffer.cut(finding.start, finding.end, "")
                    self._decided.append((finding, "redact"))
                self._keep_open(finding, "redact")
        if not new and not failed:
            return None
        decision = self._rules.decide(new, failed)
        if not failed:
            decision = at_most(most, decision)
        for finding, action in decision.findings:
            self._decided.append((finding, action))
            self._keep_open(finding, action)
            if action == "redact":
                self._buffer.cut(finding.start, finding.end, self._rules.replacement(finding))
        return decision

    def _keep_open(self, finding: Finding, action: Action) -> None:
        """Notes a finding that may go on, such as a key of many lines: what follows is scanned together with its beginning."""
        if action == "redact" and finding.end >= self._scanned - _OPEN_END:
            self._open = finding.start
            self._rescan = True

    def _holds_more(self, start: int, end: int) -> bool:
        """Tells whether there is more than punctuation between two positions, by which readings differ about an end."""
        return any(character.isalnum() for character in self._buffer.between(start, end))

    def _release(self, until: int) -> str:
        text = self._buffer.release(until)
        if self._buffer.forget(None if self._open is None else self._open - BOUNDARY):
            self._decided = [one for one in self._decided if one[0].end >= self._buffer.base]
        return text


def _covers(one: Finding, other: Finding) -> bool:
    """Tells whether a finding holds all characters of another."""
    return one.start <= other.start and other.end <= one.end


def _same(one: Finding, other: Finding) -> bool:
    """Tells whether two scans found the same."""
    return one.rule == other.rule and one.start < other.end and other.start < one.end
