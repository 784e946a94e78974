"""What `import transportx` needs and does, in a fresh interpreter."""

import subprocess
import sys


def run(code):
    """Run code in a fresh interpreter without the test suite's settings."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_works_where_ott_is_absent_and_every_room_is_there():
    # None in sys.modules makes `import ott` raise, as if it were not installed.
    rooms = run(
        "import sys; sys.modules['ott'] = None; import transportx as tx;"
        "print(tx.ot.solve.__name__, tx.metrics.wasserstein2.__name__, tx.sampling.flow.__name__)"
    )
    assert rooms.split() == ["solve", "wasserstein2", "flow"]


def test_import_leaves_heavy_packages_and_settings_alone():
    code = (
        "import jax, sys; before = dict(jax.config.values); import transportx;"
        "print(*sorted(sys.modules));"
        "changed = [k for k, v in jax.config.values.items() if before.get(k, v) != v];"
        "print(jax.config.jax_enable_x64, changed)"
    )
    *loaded, enabled, changed = run(code).split()
    assert "transportx.sampling" in loaded
    assert not set(loaded) & {
        "ott",
        "scipy.optimize",
        "matplotlib",
        "experiments",
        "tomllib",
        "tqdm",
    }
    assert (enabled, changed) == ("False", "[]")
