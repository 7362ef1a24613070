"""How fast engines are, side by side in one run.

`harness` alternates the candidates and `trial` times one; `server` lets queries arrive at random
(`arrivals`), and `loadgen` hands them to MLCommons' load generator. `latency` has the arithmetic of
percentiles and ratios, `knee` that of sweeps; `gemm` and `macs` say what share of the machine is
used, `profile` where in the network, `footprint` what a fresh process takes, `energy` what a
counter counts, `null` what the harness itself takes. `report` is the record, throughput.json.
"""

from inception_deploy.throughput.harness import measure
from inception_deploy.throughput.report import SCHEMA, Ratio, Row, Scenario, ThroughputReport
from inception_deploy.throughput.trial import Candidate, Runner

__all__ = [
    "SCHEMA",
    "Candidate",
    "Ratio",
    "Row",
    "Runner",
    "Scenario",
    "ThroughputReport",
    "measure",
]
