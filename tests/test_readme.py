"""The README's Python runs as it stands, in a fresh process as a user would run it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.helpers import settings

USES = """
i0, i1 = Sorted()(x0, x1, key=jr.key(7))
assert jnp.all(jnp.diff(x0[i0][:, 0]) >= 0)
value = tx.losses.flow_matching(field, Quadratic(), x0[i0], x1[i1], key=jr.key(8))
assert jnp.isfinite(value)
assert bool(plan.converged)
assert jnp.allclose(jnp.mean(jnp.linalg.norm(x1_fine, axis=1)), 3, atol=0.3)
assert tx.metrics.energy_distance(x1, truth) < 4 * tx.metrics.energy_distance(other, truth)
"""


def test_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join([*blocks, USES])],
        capture_output=True,
        text=True,
        env=settings(),
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "energy distance" in process.stdout
