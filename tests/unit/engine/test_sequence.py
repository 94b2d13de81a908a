from headrace.request import Sampling
from workers.engine.sequence import Sequence


def test_the_numbers_of_a_sequence() -> None:
    sequence = Sequence(
        id="a", tokens=[1, 2, 3, 4, 5], prompt_length=3, sampling=Sampling(max_tokens=10, seed=0), priority=2, arrival=7, computed=4
    )
    assert (sequence.generated, sequence.lag, sequence.max_length, sequence.urgency) == (2, 1, 13, (2, 7))


def test_urgency_is_priority_then_arrival() -> None:
    def make(priority: int, arrival: int) -> Sequence:
        return Sequence(id="", tokens=[1], prompt_length=1, sampling=Sampling(max_tokens=1, seed=0), priority=priority, arrival=arrival)

    assert make(0, 9).urgency < make(1, 1).urgency < make(1, 2).urgency
