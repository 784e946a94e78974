"""Work of compiled programs: against counts by hand, of loops of known and unknown length."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.plan import programs

SIZE, STEPS = 32, 5
SHAPE = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
PRODUCT = 2 * SIZE**3


def work(function):
    return programs.work(jax.jit(function).lower(SHAPE).compile())


def test_known_loops_count_each_of_their_steps():
    def products(x):
        return jax.lax.scan(lambda y, _: (x @ y, None), x, length=STEPS)[0]

    def nested(x):
        return jax.lax.fori_loop(0, STEPS, lambda _, y: products(y), x)

    # Counters of loops are a few operations more.
    assert work(products).flops == pytest.approx(STEPS * PRODUCT, rel=1e-3)
    assert work(nested).flops == pytest.approx(STEPS**2 * PRODUCT, rel=1e-3)
    assert work(nested).open_loops == 0


def test_open_loops_count_once_and_are_reported():
    def until_small(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: x @ y, x)

    found = work(until_small)
    assert found.open_loops == 1
    # The sum of the condition too.
    assert found.flops == pytest.approx(PRODUCT + SIZE**2, rel=1e-3)


def test_a_choice_counts_as_its_dearest_branch():
    def choose(x):
        branches = (jnp.sin, lambda y: y @ y, lambda y: y @ y @ y)
        return jax.lax.switch(jnp.int32(x[0, 0]), branches, x)

    assert work(choose).flops == pytest.approx(2 * PRODUCT, rel=1e-3)


def test_collectives_in_loops_are_counted_with_their_bytes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    over = PartitionSpec("data")

    def around(x):
        def step(y, _):
            return jax.lax.ppermute(y, "data", [(i, (i + 1) % 8) for i in range(8)]), None

        return jax.lax.psum(jax.lax.scan(step, x, length=8)[0], "data")

    mapped = jax.shard_map(around, mesh=mesh, in_specs=over, out_specs=PartitionSpec())
    arguments = jax.ShapeDtypeStruct(SHAPE.shape, SHAPE.dtype, sharding=NamedSharding(mesh, over))
    found = programs.work(jax.jit(mapped).lower(arguments).compile())
    block = SIZE // 8 * SIZE * 4
    assert found.sent == {"collective-permute": 8 * block, "all-reduce": block}
    assert found.largest == {"collective-permute": block, "all-reduce": block}


def test_loops_that_count_up_to_a_constant_are_known_without_the_compilers_word():
    text = """
%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[8,8]{1,0} constant({...})
  %y = f32[4,8]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%state, %y)
}

%condition (state.1: (s32[], f32[4,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %limit = s32[] constant(7)
  %count = s32[] get-tuple-element(%state.1), index=0
  ROOT %more = pred[] compare(%count, %limit), direction=LT
}

ENTRY %main (x.1: f32[4,8]) -> (s32[], f32[4,8]) {
  %start = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body
}
"""
    assert programs.work_of_text(text) == programs.Work(7 * 2 * 4 * 8 * 8, {}, {}, 0)


def test_what_a_fusion_drops_is_not_counted():
    text = """
%fused (p: f32[64,64]) -> f32[64,1] {
  %p = f32[64,64]{1,0} parameter(0)
  %s = f32[64,64]{1,0} sine(%p)
  %m = f32[64,64]{1,0} multiply(%s, %p)
  ROOT %c = f32[64,1]{1,0} slice(%m), slice={[0:64], [0:1]}
}

ENTRY %main (x: f32[64,64]) -> f32[64,1] {
  %x = f32[64,64]{1,0} parameter(0)
  ROOT %f = f32[64,1]{1,0} fusion(%x), kind=kLoop, calls=%fused
}
"""
    assert programs.work_of_text(text).flops == 2 * 64


def test_a_collective_that_goes_on_beside_other_work_counts_where_it_begins():
    # As libtpu writes one: whoever goes on with it names it again.
    def gather(root, flag):
        config = f'"async_collective_fusion_config":{{"flag_start":"{flag}"}}'
        return f"  {root}f32[64,4]{{1,0}} all-gather(%x), channel_id=3, backend_config={{{config}}}"

    lines = (
        "%beside (x: f32[8,4]) -> f32[64,4] {",
        "  %x = f32[8,4]{1,0} parameter(0)",
        gather("ROOT %all-gather.2 = ", 2),
        "}",
        "ENTRY %main (x: f32[8,4]) -> f32[64,4] {",
        "  %x = f32[8,4]{1,0} parameter(0)",
        gather("%all-gather.1 = ", -1),
        "  ROOT %fusion = f32[64,4]{1,0} fusion(%x), kind=kLoop, calls=%beside",
        "}",
    )
    assert programs.work_of_text("\n".join(lines)).sent == {"all-gather": 64 * 4 * 4}
