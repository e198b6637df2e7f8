"""Distances on the earth."""

import numpy as np

from fedgru.core.types import Doubles

EARTH_KM = 6371.0
KM_PER_DEG = 111.2  # of latitude, and of longitude at the equator


def distances_km(
    lat1_deg: Doubles, lon1_deg: Doubles, lat2_deg: Doubles | float, lon2_deg: Doubles | float
) -> Doubles:
    """Return float64 [num], great-circle distances in km, by the haversine formula; NaN stays NaN.

    >>> distances_km(np.array([0.0, np.nan]), np.array([1.0, 0.0]), 0.0, 0.0).round(1).tolist()
    [111.2, nan]
    """
    lat1, lon1, lat2, lon2 = (np.radians(d) for d in (lat1_deg, lon1_deg, lat2_deg, lon2_deg))
    half = np.sin((lat2 - lat1) / 2) ** 2
    half = half + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.minimum(half, 1))))
