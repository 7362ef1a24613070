"""Ways to clip a tensor: one file each, ending in its `CALIBRATORS` tuple."""

from __future__ import annotations

from inception_deploy.calibrators.base import Calibrator, Clip, Grid, expected_error
from inception_deploy.registry import Registry

__all__ = ["CALIBRATORS", "Calibrator", "Clip", "Grid", "calibrator", "expected_error"]

CALIBRATORS: Registry[Calibrator] = Registry(
    "calibrator", "inception_deploy.calibrators", "CALIBRATORS"
)


def calibrator(spelled: str) -> Calibrator:
    """The calibrator called `spelled`, a parameter following a colon: "mse", "percentile:99.9".

    Raises:
        UnknownName: there is none of that name.
        BadInput: it takes no parameter, or not this one.
    """
    name, colon, parameter = spelled.partition(":")
    found = CALIBRATORS.get(name)
    return found.with_parameter(parameter) if colon else found
