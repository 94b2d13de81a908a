import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from scheduler.batches.lines import Index, Input, read_lines


def lines(content: bytes, limit: int = 100) -> list[tuple[int, bytes, bool]]:
    return [(line.number, line.data, line.too_long) for line in read_lines(io.BytesIO(content), limit)]


def test_numbers_count_blank_lines_too() -> None:
    assert lines(b"a\n\n \t\nb\n") == [(1, b"a", False), (4, b"b", False)]


def test_every_kind_of_line_end_and_a_byte_order_mark() -> None:
    assert lines(b"\xef\xbb\xbfa\r\nb\nc") == [(1, b"a", False), (2, b"b", False), (3, b"c", False)]
    assert lines(b"a\n\xef\xbb\xbfb") == [(1, b"a", False), (2, b"\xef\xbb\xbfb", False)]
    assert lines(b"") == lines(b"\xef\xbb\xbf") == lines(b"\n\r\n") == []


def test_a_line_is_too_long_from_one_byte_over_the_limit() -> None:
    assert lines(b"x" * 5 + b"\r\n" + b"y" * 6 + b"\nz", limit=5) == [(1, b"xxxxx", False), (2, b"yyyyy", True), (3, b"z", False)]
    assert lines(b"x" * 5, limit=5) == [(1, b"xxxxx", False)]
    assert lines(b"x" * 6, limit=5) == [(1, b"xxxxx", True)]


def test_no_more_of_a_long_line_is_held_than_the_limit() -> None:
    class Watched(io.BytesIO):
        longest = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            piece = super().readline(size)
            self.longest = max(self.longest, len(piece))
            return piece

    file = Watched(b"x" * 50_000_000 + b"\nshort\n")
    found = list(read_lines(file, 1_000))
    assert [(line.number, line.too_long) for line in found] == [(1, True), (2, False)]
    assert found[1].data == b"short"
    assert file.longest <= 1 << 20


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"", b" ", b"d" * 9, b"e" * 30]), max_size=12), st.sampled_from([b"\n", b"\r\n"]), st.booleans()
)
def test_an_index_finds_every_line_again(pieces: list[bytes], end: bytes, ended: bool) -> None:
    content = end.join(pieces) + (end if ended else b"")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input").write_bytes(content)
        index = Index()
        with (folder / "input").open("rb") as file:
            found = list(read_lines(file, 20))
        for line in found:
            index.add(line)
        index.save(folder / "index")
        again = Input(folder / "input", Index.load(folder / "index"))
        try:
            assert [again[i] for i in range(len(again))] == [line.data for line in found]
        finally:
            again.close()
    assert [line.data for line in found] == [piece[:20] for piece in pieces if piece.strip()]
