"""Values as JSON that any parser reads."""

import json

import numpy as np

from fedgru.storage.tables import to_json


def test_what_json_cannot_hold_is_null():
    value = {"loss": float("nan"), "rows": [1.5, (float("-inf"), np.float64("inf"))], "name": "ü"}

    def refuse(constant):  # Python's own parser would take NaN and Infinity
        raise ValueError(constant)

    text = to_json(value)
    read = json.loads(text, parse_constant=refuse)
    assert read == {"loss": None, "rows": [1.5, [None, None]], "name": "ü"}
    assert text.isascii()
    assert '"ü"' in to_json(value, ensure_ascii=False)
