"""May this bundle be shipped? One verdict, with the evidence for it.

`bounds` is what is asked; `integrity`, `fidelity`, `accuracy` and `speed` are what is looked at, in
this order; `sequential` decides when enough images have been seen; `verdict` is the answer and
`baseline` what it is compared with from build to build; `junit` and `github` write it down for the
machinery of continuous integration.
"""

from inception_deploy.gate.baseline import Baseline, load_baseline
from inception_deploy.gate.bounds import Bounds, BoundValues, default_bounds
from inception_deploy.gate.run import gate
from inception_deploy.gate.speed import Timing
from inception_deploy.gate.verdict import Check, GateVerdict

__all__ = [
    "Baseline",
    "BoundValues",
    "Bounds",
    "Check",
    "GateVerdict",
    "Timing",
    "default_bounds",
    "gate",
    "load_baseline",
]
