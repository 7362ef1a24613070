"""Where does it go wrong? The first place at which a deployed network leaves its reference.

`locate` walks through the stages that a bundle shows; `walk` compares two forms of one network
piece by piece, `allowance` says what error a piece may add, `causes` what may be behind more.
"""

from inception_deploy.locate.findings import Finding, LocateReport, Place, Row, Transition
from inception_deploy.locate.locate import locate

__all__ = ["Finding", "LocateReport", "Place", "Row", "Transition", "locate"]
