"""Cutting of a graph into stem, stacks and heads, by the tensors that its exits end in.

    image --stem--> what exits share --stack_2--> what later exits share --stack_3--> ...
                          |                             |
                        head_1                        head_2

The stem is what the first exit needs and a later one needs too; stack k adds what exit k shares
with later ones; a head is what one exit alone needs. So ``stack_1`` and the last stack do nothing.
A detector with one exit is all in its stem, up to its outputs.

What crosses a boundary is found by walking the graph: every tensor that was computed before and is
read behind it. Features are the same ports at every depth, so each such tensor has a slot that
others of its shape take over when nobody reads it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx

from builder.onnx_import.branches import inputs_of
from builder.onnx_import.errors import ForeignModelError

Names = tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """The parts of a graph; all nodes in their order."""

    trunk: tuple[tuple[onnx.NodeProto, ...], ...]
    """Nodes of the stem, then those of each stack."""
    heads: tuple[tuple[onnx.NodeProto, ...], ...]
    live: tuple[Names, ...]
    """What crosses the boundary at depths 0, 1, ...: tensors of the graph."""


def cut(graph: onnx.GraphProto, image: str, exits: Sequence[Names]) -> Cut:
    """Return the parts of ``graph``, whose input is called ``image``.

    ``exits`` are the tensors that each exit ends in, from the first on. Raises ForeignModelError
    for a tensor that there is not, or exits of which one needs nothing of an earlier one.
    """
    nodes = list(graph.node)
    producers = {name: index for index, node in enumerate(nodes) for name in node.output}
    fed = _fed(nodes, image)
    for names in exits:
        for name in names:
            if name not in producers:
                raise ForeignModelError(f"--exits: there is no tensor {name!r} in the graph")
            if producers[name] not in fed:
                raise ForeignModelError(f"--exits: {name!r} does not depend on the image")
    needed = [_ancestors(nodes, producers, names) & fed for names in exits]
    if len(exits) == 1:
        (names,) = exits
        every = (_in_order(nodes, producers, needed[0], fed), ())
        return Cut(every, ((),), (names, names))
    trunk: list[set[int]] = [set()]  # nodes that have been run at each depth
    for number, mine in enumerate(needed):
        later = set().union(*needed[number + 1 :])
        trunk.append(trunk[-1] | (mine & later))
        if not trunk[-1]:
            raise ForeignModelError(
                f"--exits: {', '.join(exits[number])} has nothing in common with the exits after it"
            )
    trunk[0] = trunk[1]
    heads = [mine - trunk[number + 1] for number, mine in enumerate(needed)]
    live = []
    for depth in range(len(exits) + 1):
        behind = [*heads[max(depth, 1) - 1 :], set().union(*trunk[depth:]) - trunk[depth]]
        wanted = [name for some in behind for index in some for name in inputs_of(nodes[index])]
        wanted += [name for names in exits[max(depth, 1) - 1 :] for name in names]
        done = {name for index in trunk[depth] for name in nodes[index].output} | {image}
        live.append(tuple(dict.fromkeys(name for name in wanted if name in done)))
    # The last stack does nothing, whatever it need not hand on.
    live[-1] = tuple(name for name in live[-2] if name in live[-1])
    added = [trunk[0], *(after - before for before, after in pairwise(trunk))]
    return Cut(
        tuple(_in_order(nodes, producers, part, fed) for part in added),
        tuple(_in_order(nodes, producers, part, fed) for part in heads),
        tuple(live),
    )


def outputs_of(graph: onnx.GraphProto, image: str) -> Names:
    """Return the outputs of ``graph`` that are made of its input ``image``.

    Raises ForeignModelError where there are none.
    """
    nodes = list(graph.node)
    made = {name for index in _fed(nodes, image) for name in nodes[index].output}
    names = tuple(port.name for port in graph.output if port.name in made)
    if not names:
        raise ForeignModelError(f"none of its outputs depends on {image}")
    return names


def _fed(nodes: Sequence[onnx.NodeProto], image: str) -> set[int]:
    """Return the nodes that depend on the image; the others are constants."""
    reached, found = {image}, set()
    for index, node in enumerate(nodes):
        if reached.intersection(inputs_of(node)):
            reached.update(node.output)
            found.add(index)
    return found


def _ancestors(
    nodes: Sequence[onnx.NodeProto], producers: dict[str, int], names: Iterable[str]
) -> set[int]:
    """Return the nodes that these tensors are made of."""
    goals, found = [producers[name] for name in names], set()
    while goals:
        index = goals.pop()
        if index not in found:
            found.add(index)
            goals += [producers[name] for name in inputs_of(nodes[index]) if name in producers]
    return found


def _in_order(
    nodes: Sequence[onnx.NodeProto],
    producers: dict[str, int],
    part: Collection[int],
    fed: Collection[int],
) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes of a part, and those that make the constants which they read."""
    read = [name for index in part for name in inputs_of(nodes[index]) if name in producers]
    constants = _ancestors(nodes, producers, [n for n in read if producers[n] not in fed])
    return tuple(nodes[index] for index in sorted({*part, *constants}))


# -- slots ----------------------------------------------------------------------------------------

Shape = tuple[int, ...]


def assign_slots(
    live: Sequence[Names], shapes: dict[str, Shape]
) -> tuple[list[Shape], list[dict[int, str]]]:
    """Return the shape of each slot, and which tensor is in which at each depth.

    A tensor keeps its slot for as long as it is read.
    """
    slots: list[Shape] = []
    held: list[dict[int, str]] = []
    for names in live:
        before = held[-1] if held else {}
        now = {slot: name for slot, name in before.items() if name in names}
        for name in names:
            if name in now.values():
                continue
            free = (s for s, shape in enumerate(slots) if s not in now and shape == shapes[name])
            slot = next(free, len(slots))
            if slot == len(slots):
                slots.append(shapes[name])
            now[slot] = name
        held.append(now)
    return slots, held
