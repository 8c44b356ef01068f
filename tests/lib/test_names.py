"""Names for what its user did not name."""

from skep.lib.names import BEEKEEPERS, QUALITIES, random_name
from skep.manager.control.checks import check_name


def test_names_come_from_the_dice() -> None:
    assert random_name(bytes) == "amber_aristotle"
    assert random_name(lambda n: bytes([65, 48][:n])) == "brave_aristotle"


def test_every_name_can_be_a_services() -> None:
    assert len(set(QUALITIES)) == len(QUALITIES)
    assert len(set(BEEKEEPERS)) == len(BEEKEEPERS)
    for quality in QUALITIES:
        for beekeeper in BEEKEEPERS:
            check_name(f"{quality}_{beekeeper}")
