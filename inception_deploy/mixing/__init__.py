"""Accuracy-aware mixing: which blocks of an INT8 graph go back to float so that a bound holds.

`sensitivity` measures what each block costs in accuracy and what it would cost in time, once and
resumably (`state`); `search` orders the blocks and finds how many have to go back; `mix` does it
for one deployment; `trial` says what a graph is worth on the validation images.
"""

from inception_deploy.mixing.mix import Bounds, Mixed, mix, mixed
from inception_deploy.mixing.search import Point

__all__ = ["Bounds", "Mixed", "Point", "mix", "mixed"]
