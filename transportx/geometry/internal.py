"""What other rooms compute with and users do not need to see."""

from transportx.geometry._centre import centre_between as centre_between
from transportx.geometry._costs import FEW_COORDINATES as FEW_COORDINATES
from transportx.geometry._forbidden import exponents as exponents
from transportx.geometry._forbidden import finite_part as finite_part
from transportx.geometry._forbidden import forbidden as forbidden
from transportx.geometry._layout import default_tile as default_tile
from transportx.geometry._resolved import ResolvedSquares as ResolvedSquares
from transportx.geometry._streamed import log_totals as log_totals
