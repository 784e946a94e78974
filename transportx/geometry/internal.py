"""What other rooms compute with and users do not need to see."""

from transportx.geometry._centre import centre_between as centre_between
from transportx.geometry._costs import FEW_COORDINATES as FEW_COORDINATES
from transportx.geometry._forbidden import exponents as exponents
from transportx.geometry._forbidden import finite_part as finite_part
from transportx.geometry._forbidden import forbidden as forbidden
from transportx.geometry._gibbs import AbstractKernel as AbstractKernel
from transportx.geometry._gibbs import DenseKernel as DenseKernel
from transportx.geometry._gibbs import StreamedKernel as StreamedKernel
from transportx.geometry._gibbs import gibbs_kernel as gibbs_kernel
from transportx.geometry._gibbs_sums import log_totals as log_totals
from transportx.geometry._gibbs_sums import may_fuse as may_fuse
from transportx.geometry._layout import default_tile as default_tile
from transportx.geometry._merges import AbstractMerge as AbstractMerge
from transportx.geometry._merges import AnyOf as AnyOf
from transportx.geometry._merges import Largest as Largest
from transportx.geometry._merges import Maximum as Maximum
from transportx.geometry._merges import Sum as Sum
from transportx.geometry._merges import SumExp as SumExp
from transportx.geometry._merges import capped_exp as capped_exp
from transportx.geometry._merges import largest_exponent as largest_exponent
from transportx.geometry._resolved import ResolvedSquares as ResolvedSquares
