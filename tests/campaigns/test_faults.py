"""The planted faults' edits still fit the code: the campaign itself is slow, and a refactoring is to notice at once."""

import pytest
from campaigns.copies import ROOT
from campaigns.faults import FAULTS, Fault


@pytest.mark.parametrize("fault", [each for each in FAULTS if each.text], ids=lambda fault: fault.name)
def test_a_fault_has_one_place(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text().count(fault.text) == 1, f"{fault.name}: {fault.text!r} in {fault.file}"
    assert fault.planted != fault.text
