"""The family: one file per network, ending in its `NETWORKS` tuple."""

from inception_deploy.networks.base import InceptionNetwork, NetworkSpec
from inception_deploy.registry import Registry

__all__ = ["NETWORKS", "InceptionNetwork", "NetworkSpec"]

NETWORKS: Registry[NetworkSpec] = Registry("network", "inception_deploy.networks", "NETWORKS")
