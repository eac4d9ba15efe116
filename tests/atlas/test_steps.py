"""The pure steps of the main job."""

from __future__ import annotations

import numpy as np
import pytest

from spatialjax.atlas import pairs, placing
from spatialjax.atlas.features import shared_capacities
from spatialjax.atlas.watch import Event, Watch
from spatialjax.transforms import Affine, rigid


def _pair(evidence: list[float], mirrored: list[bool]) -> pairs.PairResult:
    poses = [rigid(np.float64(0.0), np.zeros(2), m) for m in mirrored]
    k = len(evidence)
    return pairs.PairResult(
        source=0,
        target=1,
        poses=Affine(np.stack([p.matrix for p in poses]), np.zeros((k, 2))),
        evidence=np.array(evidence),
        precision=np.tile(np.eye(3), (k, 1, 1)),
        center=np.zeros((k, 2)),
        threshold=5.0,
        similarity=0.5,
        status="done",
    )


@pytest.mark.parametrize(
    ("reflection", "evidence", "expected"),
    [
        ("never", [40.0, 8.0], 1),
        ("auto", [14.0, 8.0], 1),
        ("auto", [40.0, 8.0], 0),
        ("allow", [14.0, 8.0], 0),
    ],
)
def test_preferred_pose_respects_reflection(reflection: str, evidence: list[float], expected: int) -> None:
    """A mirrored pose wins never, on clear evidence, or on any evidence."""
    assert pairs.preferred(_pair(evidence, [True, False]), reflection) == expected


def test_pairs_are_neighbours_then_next_neighbours() -> None:
    """Every pair at most two apart, once."""
    assert pairs.pairs_of(4) == [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]
    assert pairs.pairs_of(2) == [(0, 1)]


def test_capacities_are_shared_where_padding_is_cheap() -> None:
    """Sections up to half as large take the capacity of the largest; much smaller ones keep their own."""
    assert shared_capacities([900, 700, 600]) == [1024, 1024, 1024]
    assert shared_capacities([900, 100]) == [1024, 128]


def test_a_section_without_usable_pose_stays_unplaced() -> None:
    """A pair whose method failed brings no edge: both sections stay unplaced and nothing breaks."""
    pair = _pair([-np.inf], [False])
    graph = placing.join([pair], 2, pitch=100.0)
    assert not graph.placed.any()


def test_watch_reports_and_measures_each_step() -> None:
    """Start and end of every step are told, also to a listener that only looks at them; time and memory are kept."""
    heard: list[Event] = []
    watch = Watch(heard.append)
    with watch.step("one", "first"):
        watch.say("half", share=0.5)
    assert [(e.step, e.state) for e in heard] == [("one", "start"), ("one", "running"), ("one", "end")]
    (timing,) = watch.timings
    assert timing.step == "one"
    assert timing.seconds >= 0
    assert timing.peak_mb is None or timing.peak_mb > 1


def test_watch_says_when_jax_compiles() -> None:
    """A new program inside a step is counted; the same program again is not."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        return jnp.sin(x) * 3.25

    watch = Watch()
    for name in ("first", "again"):
        with watch.step(name, ""):
            program(jnp.arange(7.0)).block_until_ready()
    assert watch.timings[0].compilations >= 1
    assert watch.timings[1].compilations == 0
