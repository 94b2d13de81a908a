"""A sequence: the tokens of one request, and how far the engine has come with them. Torch-free."""

from dataclasses import dataclass, field
from enum import Enum, auto

from headrace.logprobs import Logprobs
from headrace.request import Sampling
from workers.engine.logit_rules import LogitRules


class SequenceState(Enum):
    WAITING = auto()
    """Holds nothing."""
    RUNNING = auto()
    """Holds a slot, and blocks for all its tokens."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Invariant while running: 0 ≤ computed < len(tokens) ≤ block_size · len(blocks), between steps."""

    id: str
    tokens: list[int]
    """Known tokens: the prompt, then what was generated."""
    prompt_length: int
    sampling: Sampling
    priority: int
    """Lower is more urgent."""
    arrival: int
    """Breaks ties of priority: lower came earlier."""
    salt: str = ""
    """Sequences of the same salt share what they have in common."""
    choice: int = 0
    rules: LogitRules | None = None
    """What it changes about its logits, if anything."""
    prompt_logprobs: list[Logprobs] | None = None
    """Of the prompt's tokens computed so far, but the first; None if nobody asks, or once they were told."""
    computed: int = 0
    """Known tokens whose keys and values lie in the cache. A step moves it towards len(tokens); a preemption back to 0."""
    cached: int | None = None
    """`computed` when it was first admitted: what lay in the cache of others. None before."""
    blocks: list[int] = field(default_factory=list)
    """Block b holds tokens [b · block_size, (b + 1) · block_size)."""
    entered: list[int] = field(default_factory=list)
    """Nodes of the prefix cache for the first blocks, as far as they are full."""
    slot: int | None = None
    """Row of the runner's block table."""
    state: SequenceState = SequenceState.WAITING

    def append(self, token_id: int) -> None:
        """One token more was generated."""
        self.tokens.append(token_id)
        if self.rules is not None:
            self.rules.add(token_id)

    def score(self, start: int, told: list[Logprobs]) -> None:
        """Of the prompt's tokens behind those from `start` on; the same again where a preempted prompt is computed again."""
        assert self.prompt_logprobs is not None
        self.prompt_logprobs[start : start + len(told)] = told

    def take_scores(self) -> tuple[Logprobs, ...]:
        """All of the prompt's, once; they are told with the first token."""
        told, self.prompt_logprobs = self.prompt_logprobs or (), None
        return tuple(told)

    @property
    def scores_prompt(self) -> bool:
        """Its prompt's logits are wanted: all of it has to be computed, and nothing may be taken from what others have."""
        return self.prompt_logprobs is not None

    @property
    def urgency(self) -> tuple[int, int]:
        """Sorts the most urgent first."""
        return (self.priority, self.arrival)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def max_length(self) -> int:
        """Tokens it may come to hold."""
        return self.prompt_length + self.sampling.max_tokens

    @property
    def lag(self) -> int:
        """Known tokens not yet computed. 1: the next step decodes; more: it prefills."""
        return len(self.tokens) - self.computed
