"""Networks: modules with the signature network(x, time, cond). They know no diffusion mathematics."""

from .base import Network as Network
from .cond import Cond as Cond
from .cond import Doors as Doors
from .kinds import NETWORKS as NETWORKS
from .kinds import NetworkKind as NetworkKind
from .kinds import register as register
