"""Between the host and a device."""

import numpy as np
import torch
from assay.harness.transfer import columns_to_numpy, sent
from pretend_device import ELSEWHERE, PretendDevice


def test_columns_to_numpy() -> None:
    """Tensors with or without a graph as arrays of their type."""
    leaf = torch.tensor([1.0, 2], requires_grad=True)
    columns = columns_to_numpy([("a", leaf * 2), ("b", torch.tensor([True, False]))])
    assert columns["a"].tolist() == [2, 4]
    assert columns["b"].dtype == np.bool_


def test_columns_of_a_device_come_at_once() -> None:
    """Of any type and shape, none, strided and of a single row: the same arrays, writable, after one wait."""
    columns = {
        "bool": torch.tensor([True, False, True]),
        "strided": torch.arange(6).view(3, 2)[:, 1],
        "curve": torch.rand(3, 4),
        "single": torch.tensor([[3, 1]]).unbind(1)[0],
        "none": torch.zeros(0, 2, dtype=torch.float64),
        "double": torch.rand(3, dtype=torch.float64, requires_grad=True),
    }
    expected = columns_to_numpy(columns.items())
    with PretendDevice() as mode:
        there = {name: sent(column, ELSEWHERE) for name, column in columns.items()}
        assert not mode.waits
        found = columns_to_numpy((there | {"double": columns["double"]}).items())  # one of the host among them
        assert mode.waits.total() == 1
        assert columns_to_numpy([]) == {}
    assert found.keys() == expected.keys()
    for name, column in found.items():
        assert column.dtype == expected[name].dtype and column.flags.writeable
        assert np.array_equal(column, expected[name])
