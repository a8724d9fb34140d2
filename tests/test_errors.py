"""Messages for names that are not among the choices."""

from replicate.errors import unknown


def test_the_culprit_and_the_choices_are_named() -> None:
    error = unknown("init", "quite another", ("lsuv", "msra"))
    assert str(error) == "unknown init 'quite another'; choose from: lsuv, msra"


def test_a_slip_of_the_hand_is_guessed() -> None:
    assert "(did you mean 'lsuv'?)" in str(unknown("init", "lsvu", ("lsuv", "msra")))
