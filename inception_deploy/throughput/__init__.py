"""How fast engines are, side by side in one run.

`harness` alternates the engines and times them, `latency` has the arithmetic of percentiles and
ratios, and `report` is the record, throughput.json.
"""

from inception_deploy.throughput.harness import Candidate, Runner, measure
from inception_deploy.throughput.report import SCHEMA, Ratio, Row, ThroughputReport

__all__ = ["SCHEMA", "Candidate", "Ratio", "Row", "Runner", "ThroughputReport", "measure"]
