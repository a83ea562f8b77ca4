"""What a metric measured beside who each pair is."""

import pandas as pd
import pytest
from assay.harness.results.pairs import joined


def test_columns_that_samples_have_are_refused_by_name() -> None:
    """Of a metric of one's own, which may call a column `label` as the samples do."""
    samples = pd.DataFrame({"position": [0], "sample_id": ["a"], "label": [1]})
    with pytest.raises(RuntimeError, match="the metric measures label, which the samples have already: rename"):
        joined(samples, pd.DataFrame({"position": [0], "sample_id": ["a"], "label": [2.0]}))
