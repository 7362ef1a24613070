"""Does the deployed network still say what the PyTorch network says?

`comparison` runs both on the same images and `tally` remembers; `distance` measures how far outputs
are apart, `golden` compares with the recorded golden and block by block, `paired` holds the
statistics of flips, and `report` is the record of it all, parity.json.
"""

from inception_deploy.parity.comparison import LabelledBatch, Predictor, compare
from inception_deploy.parity.golden import BlockError, GoldenError, compare_blocks, compare_golden
from inception_deploy.parity.paired import PairedCounts, Verdict
from inception_deploy.parity.report import (
    SCHEMA,
    CalibrationError,
    ClassAccuracy,
    DataFacts,
    Flips,
    NearTies,
    ParityReport,
    verdict,
)
from inception_deploy.parity.tally import Tally

__all__ = [
    "SCHEMA",
    "BlockError",
    "CalibrationError",
    "ClassAccuracy",
    "DataFacts",
    "Flips",
    "GoldenError",
    "LabelledBatch",
    "NearTies",
    "PairedCounts",
    "ParityReport",
    "Predictor",
    "Tally",
    "Verdict",
    "compare",
    "compare_blocks",
    "compare_golden",
    "verdict",
]
