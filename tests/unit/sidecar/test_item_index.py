from collections.abc import Iterator

import pytest

from batch_llm.sidecar.item_index import ItemIndex, Seen, content_digest


@pytest.fixture
def index() -> Iterator[ItemIndex]:
    index = ItemIndex()
    yield index
    index.close()


def test_an_item_is_new_once(index: ItemIndex) -> None:
    assert index.add("1", "s", "p", b"c") is Seen.NEW
    assert index.add("1", "s", "p", b"c") is Seen.SAME
    assert index.add("2", "s", "p", b"c") is Seen.NEW


@pytest.mark.parametrize("other", [("t", "p", b"c"), ("s", "q", b"c"), ("s", "p", b"d"), ("s", "p", b"")])
def test_the_first_content_stands(index: ItemIndex, other: tuple[str, str, bytes]) -> None:
    index.add("1", "s", "p", b"c")
    assert index.add("1", *other) is Seen.OTHER_CONTENT
    assert index.add("1", *other) is Seen.OTHER_CONTENT
    assert index.add("1", "s", "p", b"c") is Seen.SAME


def test_ids_are_compared_exactly(index: ItemIndex) -> None:
    for item_id in ("a", "A", "a ", "á", "1", "01"):
        assert index.add(item_id, "s", "p", b"") is Seen.NEW


def test_indexes_know_nothing_of_each_other(index: ItemIndex) -> None:
    index.add("1", "s", "p", b"")
    other = ItemIndex()
    assert other.add("1", "s", "q", b"") is Seen.NEW
    other.close()


def test_text_that_moves_between_fields_is_other_content() -> None:
    contents = [
        ("ab", "cd", b"ef"),
        ("abc", "d", b"ef"),
        ("a", "bcd", b"ef"),
        ("ab", "cde", b"f"),
        ("ab", "cdef", b""),
        ("", "abcdef", b""),
        ("2:ab", "cd", b"ef"),
        ("é", "x", b""),
        ("", "éx", b""),
    ]
    assert len({content_digest(*content) for content in contents}) == len(contents)
