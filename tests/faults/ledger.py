"""The judge: from the facts that a queue's lives told, what it did wrong.

The queue owes every message whose enqueue returned, once, in order, until its dequeue returned;
none whose enqueue raised. A crash leaves two things open, and only these: whether what was on its
way at that moment happened, in full or in part, and how many of the items taken last come again.
Each possibility is a `Belief`. What the queue says and gives afterwards has to agree with one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.workload import EMPTY, MEMORY_ITEMS, Fact, Setup

__all__ = ["Ledger", "Verdict"]


@dataclass
class Verdict:
    """What one scenario came to."""

    wrong: list[str] = field(default_factory=list)
    """What broke the rules, in words; empty if nothing did."""
    lost: int = 0
    """Messages accepted and never delivered."""
    ghosts: int = 0
    """Messages delivered though their enqueue raised, and bytes that nobody sent."""
    reordered: int = 0
    """Messages delivered behind one that is younger."""
    again: int = 0
    """The most items that came again after a crash."""
    struck: int = 0
    """Calls that went wrong."""
    kills: int = 0
    """Lives that were ended."""


@dataclass(frozen=True)
class Belief:
    """One way it may have been: what was accepted, in order, and how much of it was taken."""

    accepted: tuple[int, ...]
    taken: int

    def given(self, tokens: list[int]) -> "Belief | None":
        """What to believe once `tokens` were delivered next; None: they contradict it."""
        end = self.taken + len(tokens)
        if self.accepted[self.taken : end] != tuple(tokens):
            return None
        return Belief(self.accepted, end)


class Ledger:
    """Hears the facts of all lives of one scenario, one after the other."""

    def __init__(self, setup: Setup) -> None:
        self.verdict = Verdict()
        self._setup = setup
        self._beliefs = [Belief((), 0)]
        self._lost_track = False
        self._on_the_way: Fact = ["nothing"]
        self._disturbed = False  # since the last opening, so that the next may find less in order
        self._ahead = 0  # items that crashes since the last opening may have taken besides
        self._last_batch = 0
        self._held = self._stored = self._dropped = self._struck = 0
        self._refusing = False
        self._owed: dict[int, None] = {}
        self._refused: set[int] = set()
        self._youngest = -1
        self._left: list[str] = []

    # ---- facts -------------------------------------------------------------------------------

    def hear(self, fact: Fact) -> None:
        """Take note of one fact."""
        kind, *rest = fact
        if kind in {"open", "put", "take", "close"}:
            self._on_the_way = fact
        elif kind == "wrong":
            self._wrong(rest[0])
        elif kind == "end":
            self._end(*rest)
        else:
            *about, struck, held, stored, dropped = rest
            struck_now = struck > self._struck
            self._note_struck(struck)
            getattr(self, f"_on_{kind}")(*about, struck_now, held, dropped - self._dropped)
            self._held, self._stored, self._dropped = held, stored, dropped
            self._on_the_way = ["nothing"]

    def died(self) -> None:
        """The life has ended without a word."""
        self.verdict.kills += 1
        kind, *about = self._on_the_way
        if kind == "put":
            tokens = tuple(about[0])
            self._beliefs = [
                Belief(belief.accepted + tokens[:stored], belief.taken)
                for belief in self._beliefs
                for stored in range(len(tokens) + 1)
            ]
        if kind == "take":
            self._ahead += about[0]
        if not self._setup.durable:  # what was in memory, or on its way there, is gone
            self._ahead += self._held if kind == "close" else MEMORY_ITEMS
            self._excuse(self._ahead + self._held - self._stored)
        elif kind == "put" and self._setup.drops_oldest:
            self._ahead += self._held
        self._excuse(self._ahead)
        self._on_the_way = ["nothing"]
        self._disturbed = True
        self._struck = self._dropped = 0

    def close(self) -> Verdict:
        """The last life has ended, with all taken: count what is missing, and what is left."""
        self.verdict.lost = len(self._owed)
        if self._owed:
            self._wrong(f"never delivered: {list(self._owed)[:20]}")
        if self._left:
            self._wrong(f"left behind: {self._left}")
        return self.verdict

    # ---- inside: what the facts mean -----------------------------------------------------------

    def _note_struck(self, struck: int) -> None:
        if struck > self._struck:
            self.verdict.struck += struck - self._struck
            self._struck = struck
            self._disturbed = True

    def _on_opened(self, reason: str, struck: bool, held: int, dropped: int) -> None:
        if self._setup.durable:
            found = self._kept(held)
        elif "was given back" in reason:  # holes, and no way to tell where to begin
            self._excuse(len(self._beliefs[0].accepted))
            found = [Belief(b.accepted, len(b.accepted)) for b in self._beliefs if not held]
        else:
            found = self._survived(held)
        claim = f"{held} items after opening ({reason or 'nothing set aside'})"
        self._agree(found, claim, came_again=True)
        self._disturbed = struck
        self._refusing = False
        self._ahead = self._last_batch = 0
        self._youngest = -1

    def _kept(self, held: int) -> list[Belief]:
        """What `held` items there are, if the queue is durable: all but those taken."""
        again = self._setup.again + self._last_batch if self._disturbed else 0
        return [
            Belief(belief.accepted, start)
            for belief in self._beliefs
            if (start := len(belief.accepted) - held) >= 0
            and -again <= start - belief.taken <= self._ahead
        ]

    def _survived(self, held: int) -> list[Belief]:
        """What `held` items there may be, if it is not: what was stored and not taken is there.

        Items may come again, and those that only memory held are missing, in the middle too.
        """
        stored = max(0, self._stored - self._ahead)
        if stored:
            ends = [(belief.accepted, len(belief.accepted)) for belief in self._beliefs]
        else:
            longest = max((belief.accepted for belief in self._beliefs), key=len)
            ends = [(longest, end) for end in range(held, len(longest) + 1)]
        return [
            Belief(accepted[:end], end - held)
            for accepted, end in ends
            if 0 <= end - held <= len(accepted) - stored
        ]

    def _on_accepted(self, struck: bool, held: int, dropped: int) -> None:
        if self._refusing:
            self._wrong("it stores, though it could not flush what it stored before")
        tokens = tuple(self._on_the_way[1])
        if dropped and not self._setup.drops_oldest:
            tokens = ()
            dropped = 0
        self._owed.update(dict.fromkeys(_numbers(tokens)))
        self._pass_over(dropped)
        self._agree_on_depth(
            [Belief(belief.accepted + tokens, belief.taken) for belief in self._beliefs],
            held,
            f"{len(tokens)} more",
        )

    def _on_taken(self, tokens: list[int], struck: bool, held: int, dropped: int) -> None:
        self._last_batch = len(tokens)
        for number in _numbers(tokens):
            self._deliver(number)
        given = [belief.given(tokens) for belief in self._beliefs]
        self._agree_on_depth([b for b in given if b is not None], held, f"{tokens[:20]} taken")
        if not tokens and held:
            self._wrong(f"nothing to take, with {held} items in it")

    def _on_closed(self, struck: bool, held: int, dropped: int) -> None:
        if not self._setup.durable:
            self._owed.clear()
            self._beliefs = [Belief(b.accepted, len(b.accepted)) for b in self._beliefs]

    def _on_refused(
        self, name: str, declared: bool, text: str, struck: bool, held: int, dropped: int
    ) -> None:
        kind, *about = self._on_the_way
        where = f"{kind} raised {name}: {text}"
        if not declared:
            self._wrong(f"not an error of the library: {where}")
        elif name == "CorruptedData":
            self._wrong(f"nothing is damaged: {where}")
        elif not struck and not self._may_refuse(kind, name, text):
            self._wrong(f"nothing was wrong: {where}")
        if kind == "put":
            self._refused.update(_numbers(about[0]))
            self._refusing = self._refusing or "could not be flushed" in text
        if kind == "close":
            self._on_closed(struck, held, dropped)
            self._disturbed, self._stored = True, 0
        elif kind != "open":
            self._pass_over(dropped)  # to make room, before it failed
            self._agree_on_depth(self._beliefs, held, where)

    def _may_refuse(self, kind: str, name: str, text: str) -> bool:
        """Whether it may say no though nothing goes wrong right now."""
        if name == "MessageTooLargeError":
            return "max_overflow_bytes" in self._setup.queue
        could_not_flush = self._disturbed and "flush failed" in text
        return could_not_flush and kind in {"put", "close"} and name == "BackendError"

    def _end(self, descriptors: int, left: list[str]) -> None:
        if descriptors:
            self._wrong(f"{descriptors} descriptors are still open")
        self._left = [name for name in left if ".quarantine-" not in name]
        self._struck = self._dropped = 0

    # ---- inside: the books -------------------------------------------------------------------

    def _agree(self, beliefs: list[Belief], claim: str, *, came_again: bool = False) -> None:
        """Go on with `beliefs`, those that agree with the `claim`."""
        if self._lost_track:
            return
        if not beliefs:
            self._lost_track = True
            one = self._beliefs[0]
            owed = one.accepted[one.taken : one.taken + 20]
            self._wrong(f"{claim}; owed are {len(one.accepted) - one.taken}: {owed}")
            return
        if came_again:
            before = max(belief.taken for belief in self._beliefs)
            again = min(before - belief.taken for belief in beliefs)
            self.verdict.again = max(self.verdict.again, again)
        self._beliefs = beliefs

    def _agree_on_depth(self, beliefs: list[Belief], held: int, event: str) -> None:
        self._agree(
            [belief for belief in beliefs if len(belief.accepted) - belief.taken == held],
            f"depth {held} after: {event}",
        )

    def _pass_over(self, dropped: int) -> None:
        """The oldest items, so many, will not come: they were dropped, and counted."""
        if dropped:
            self._excuse(dropped)
            self._beliefs = [Belief(b.accepted, b.taken + dropped) for b in self._beliefs]

    def _deliver(self, number: int) -> None:
        self._owed.pop(number, None)
        if number in self._refused or number < EMPTY:
            self.verdict.ghosts += 1
            self._wrong(f"delivered: {number}, whose enqueue raised" if number >= 0 else "damage")
        if number < self._youngest:
            self.verdict.reordered += 1
            self._wrong(f"{number} came behind {self._youngest}")
        self._youngest = max(self._youngest, number)

    def _excuse(self, count: int) -> None:
        """The next `count` items need not come."""
        for belief in self._beliefs:
            for number in belief.accepted[belief.taken : belief.taken + count]:
                self._owed.pop(number, None)

    def _wrong(self, text: str) -> None:
        self.verdict.wrong.append(text)


def _numbers(tokens: Iterable[int]) -> list[int]:
    return [token for token in tokens if token != EMPTY]
