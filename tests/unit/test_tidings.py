import os

from headrace.testing.eventually import eventually
from headrace.tidings import Ear, telling


class Heard(list[tuple[bool, str]]):
    def __call__(self, well: bool, line: str) -> None:
        self.append((well, line))

    async def until(self, count: int) -> None:
        async def enough() -> bool:
            return len(self) == count

        await eventually(enough)


async def test_lines_arrive_whole_and_in_order() -> None:
    heard = Heard()
    ear = Ear(heard)
    tell = telling(ear.fd)
    tell(False, "it died ü")
    tell(True, "it lives")
    await heard.until(2)
    os.write(ear.fd, b"+beg")
    tell_rest = b"un\n-next\n"
    os.write(ear.fd, tell_rest)
    await heard.until(4)
    ear.close()
    assert heard == [(False, "it died ü"), (True, "it lives"), (True, "begun"), (False, "next")]


async def test_nobody_is_kept_from_his_work_by_a_parent_that_reads_nothing_or_is_gone() -> None:
    reader, writer = os.pipe()
    tell = telling(writer)
    for _ in range(2_000):  # more than a pipe holds
        tell(True, "x" * 100)
    os.close(reader)
    tell(False, "nobody hears this")
    os.close(writer)
