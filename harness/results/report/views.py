"""What the page shows of single samples: a method's picks, and one sample under all methods, with its values."""

from typing import Any

import pandas as pd
from markupsafe import Markup

from .figures import script_json
from .paired import Paired
from .picks import picks, standing
from .pictured import Sample, united
from .ranks import ordered

Quantities = list[tuple[str, pd.DataFrame, Paired]]
Values = dict[str, dict[str, float]]  # sample -> method -> value


def views(shown: pd.DataFrame, quantities: Quantities, pictured: list[Sample]) -> Markup | None:
    """JSON for the page's script; None where no sample of the place was pictured.

    methods: names; samples: id, label, image, and by method map, hit, and values by quantity; picks: by method, numbers
    of samples by why they were picked.
    """
    keys = shown.drop_duplicates("cell_key").set_index("cell_key")["method"].to_dict()
    held = united(each for each in pictured if each.maps.keys() & keys.keys())  # of this place: ids are its own
    scores = standing(quantities)
    known = [each for each in held if each.sample_id in scores.index]
    number = {each.sample_id: place for place, each in enumerate(known)}
    drawn = {keys[key] for each in known for key in each.maps if key in keys}
    methods = [str(name) for name in scores if name in drawn]
    if not methods:
        return None
    values = [(name, _values(made)) for name, _, made in quantities]
    order = ordered(shown)
    made = {
        "methods": methods,
        "samples": [_sample(each, keys, values, order) for each in known],
        "picks": {
            method: {
                why: [number[name] for name in names if name in number]
                for why, names in picks(scores, method)._asdict().items()
            }
            for method in methods
        },
    }
    return script_json(made)


def _values(made: Paired) -> Values:
    rows = (dict(zip(made.methods, row, strict=True)) for row in made.values.tolist())
    return dict(zip(made.samples.tolist(), rows, strict=True))


def _sample(each: Sample, keys: dict[str, str], values: list[tuple[str, Values]], order: list[str]) -> dict[str, Any]:
    of = {keys[key]: key for key in sorted(each.maps.keys() & keys.keys(), key=lambda key: order.index(keys[key]))}
    return {
        "id": each.sample_id,
        "label": each.label,
        "image": each.image,
        "maps": {method: {"map": each.maps[key], "hit": each.hits.get(key)} for method, key in of.items()},
        "values": {
            name: {method: value for method, value in table[each.sample_id].items() if method in of}
            for name, table in values
            if each.sample_id in table
        },
    }
