"""What a comparison is: its sections, and what each value may be."""

from typing import Annotated

from annotated_types import Len

from experiments.data import points
from experiments.harness import config as configs

Some = Annotated[tuple[configs.Positive, ...], Len(1)]


@configs.section
class Data:
    """Two laws of the plane, drawn afresh for every batch."""

    source: points.Name
    target: points.Name


@configs.section
class Network:
    """The network of every method; flow maps and generators have a second time."""

    width: configs.Count
    depth: configs.Count
    frequencies: configs.Whole


@configs.section
class Training:
    """How every method is trained, by Adam at a constant rate, and sampled from the average."""

    seconds: configs.Positive
    chunk: configs.Count
    batch: configs.Several
    learning_rate: configs.Positive
    average_decay: configs.BelowOne


@configs.section
class FlowMaps:
    """How maps of two times draw them, and how far large errors are held down."""

    equal_fraction: configs.Share
    adaptive: configs.NotNegative


@configs.section
class Descent:
    """Steps of gradient flows.

    Epsilons are in units of the mean square distance of data, bandwidths of its root.
    """

    batch: configs.Several
    step: configs.Positive
    second_batch: bool
    epsilons: Some
    bandwidths: Some


@configs.section
class Report:
    """How many samples are judged, and over how many trainings of each method."""

    num: configs.Several
    seeds: configs.Count


@configs.section
class Config(configs.Seeded):
    """One comparison, whole."""

    data: Data
    network: Network
    training: Training
    flow_maps: FlowMaps
    descent: Descent
    report: Report
