"""Checks that an algorithm of your own must pass, as fedgru's own do.

import fedgru.testing

def test_my_rule():
    fedgru.testing.check_algorithm("my_package:MyRule")
"""

from fedgru.testing.closeness import largest_gap
from fedgru.testing.conformance import check_algorithm

__all__ = ["check_algorithm", "largest_gap"]
