"""Moves: a key that another Device answers than the last time, as far as the last time is remembered."""

from app.cluster.moves import Moves


def test_a_key_moves_when_another_device_answers() -> None:
    moves = Moves()
    assert [moves.has_moved("a", device) for device in "xxyyx"] == [False, False, True, False, True]
    assert not moves.has_moved("b", "y")


def test_what_was_asked_for_lately_is_remembered() -> None:
    moves = Moves(most=2)
    for key in "abab":
        moves.has_moved(key, "x")
    moves.has_moved("a", "x")
    moves.has_moved("c", "x")  # b is forgotten
    assert not moves.has_moved("b", "y")
    assert moves.has_moved("c", "y")
