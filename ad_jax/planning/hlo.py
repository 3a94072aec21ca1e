"""What a compiled program does, read from the text of its optimized HLO: collectives by kind, and products.

Numbers are those of one device in one execution. What a loop repeats counts as often as the compiler says
(`known_trip_count`), and once where it does not know. Both branches of a condition count. XLA's own cost analysis takes
every loop for one turn.

Sent bytes are those of a ring of n devices (Thakur et al. 2005, "Optimization of Collective Communication Operations in
MPICH", section 4): (n - 1) / n of the whole array, twice that for an all-reduce. Device lists come in three forms:
`{{0,1},{2,3}}`, `[2,2]<=[4]` (an iota, reshaped and transposed), and `mesh['a'=2,'b'=2] {'a'}` (axes of a mesh).
"""

import dataclasses
import graphlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence

KINDS: tuple[str, ...] = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ITEM_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}  # the others say it in their name
ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+\w*)\[([\d,]*)\]")
INSTRUCTION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
SHAPE = re.compile(r"%([\w.\-]+) = \w+\[([\d,]*)\]")
DOT = re.compile(r" = \w+\[([\d,]*)\]\S* dot\(%([\w.\-]+), .*?lhs_contracting_dims=\{([\d,]*)\}")
CALLED = re.compile(r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction, and how often an execution of the program meets it."""

    kind: str
    bytes: int  # of the result on one device
    group: tuple[int, ...]  # one of the groups of devices that exchange; for a permutation its two farthest
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that one device sends, each time, around a ring."""
        n = len(self.group)
        if self.kind == "collective-permute":
            return float(self.bytes * (n > 1))
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1.0}  # a result of it is one of n parts
        return self.bytes * share.get(self.kind, (n - 1) / n)

    def crosses(self, node: int) -> bool:
        """Whether it leaves a node, where devices lie in nodes of `node` in their order."""
        return len({device // node for device in self.group}) > 1


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All of a program."""

    found: tuple[Collective, ...]

    @property
    def count(self) -> dict[str, int]:
        """How many, by kind."""
        return {kind: sum(c.times for c in self.found if c.kind == kind) for kind in KINDS}

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes of results, by kind."""
        return {kind: sum(c.times * c.bytes for c in self.found if c.kind == kind) for kind in KINDS}

    @property
    def sent(self) -> dict[str, float]:
        """Bytes sent, by kind."""
        return {kind: sum(c.times * c.sent for c in self.found if c.kind == kind) for kind in KINDS}


@dataclasses.dataclass(frozen=True)
class Program:
    """What is read of a program."""

    collectives: Collectives
    product_flops: int  # of its `dot` instructions, 2 for a multiply-add
    product_flops_once: int  # with every loop taken for one turn

    @property
    def repeats(self) -> float:
        """How many times as much the loops make of what is counted with one turn of each, by the products."""
        return self.product_flops / self.product_flops_once if self.product_flops_once else 1.0


def read(hlo: str) -> Program:
    """From the text of a compiled program. An asynchronous pair counts as its start.

    Text without an `ENTRY` is taken for the inside of one computation.
    """
    devices = re.search(r"num_partitions=(\d+)", hlo) or re.search(r"replica_count=(\d+)", hlo)
    bodies, entry = _computations(hlo)
    times = _times(bodies, entry)
    found, flops, once = [], 0, 0
    for name, lines in bodies.items():
        if times[name]:
            here = _collectives(lines, int(devices[1]) if devices else 1)
            found += [dataclasses.replace(one, times=times[name]) for one in here]
            products = _product_flops(lines)
            flops, once = flops + times[name] * products, once + products
    return Program(Collectives(tuple(found)), flops, once)


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    called = {name: [call for line in lines for call in _calls(line)] for name, lines in bodies.items()}
    callees = {name: {other for other, _ in calls if other in bodies} for name, calls in called.items()}
    times = dict.fromkeys(bodies, 0) | {entry: 1}
    for name in reversed(list(graphlib.TopologicalSorter(callees).static_order())):  # callers first
        for other, count in called[name]:
            if other in bodies:
                times[other] += times[name] * count
    return times


def _product_flops(lines: Sequence[str]) -> int:
    """FLOP of the products of a computation, each once."""
    shapes = {found[1]: _sizes(found[2]) for line in lines if (found := SHAPE.search(line))}
    total = 0
    for line in lines:
        if found := DOT.search(line):
            shape, left, contracted = found.groups()
            inside = math.prod(shapes[left][axis] for axis in _sizes(contracted))
            total += 2 * math.prod(_sizes(shape)) * inside
    return total


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by name, and the name of the first to run."""
    bodies: dict[str, list[str]] = {"": []}
    name = entry = ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        else:
            bodies[name].append(line)
    return bodies, entry


def _calls(line: str) -> Iterator[tuple[str, int]]:
    """Yield computations that an instruction runs, and how often. The end of an asynchronous pair runs nothing anew."""
    if ("=%" not in line and "branch_computations" not in line) or re.search(r" async-(done|update)\(", line):
        return
    trips = TRIPS.search(line)
    for name in CALLED.findall(line):
        yield name, int(trips[1]) if trips else 1
    for branches in BRANCHES.findall(line):
        yield from ((name.strip().lstrip("%"), 1) for name in branches.split(","))


def _collectives(lines: Sequence[str], devices: int) -> Iterator[Collective]:
    for line in lines:
        if found := INSTRUCTION.search(line):
            shape, kind, start = found.groups()
            arrays = [_bytes(*array) for array in ARRAY.findall(shape)]
            if start and kind == "all-gather":
                arrays = arrays[len(arrays) // 2 :]  # operands, then results
            elif start and kind == "collective-permute":
                arrays = arrays[1:2]  # operand, result, and what the exchange needs
            yield Collective(kind, sum(arrays), _group(line, kind, devices))


def _bytes(dtype: str, shape: str) -> int:
    """Bytes of `dtype[shape]`."""
    digits = re.search(r"\d+", dtype)
    bits = ITEM_BITS.get(dtype) or int(digits[0] if digits else 8)
    return math.ceil(bits * math.prod(_sizes(shape)) / 8)


def _group(line: str, kind: str, devices: int) -> tuple[int, ...]:
    """Devices of a group; all of the program's where the line names none."""
    if kind == "collective-permute":
        text = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
        pairs = [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)", text[1])] if text else []
        pair = max(pairs, key=lambda pair: abs(pair[0] - pair[1]), default=(0, 0))
        return tuple(sorted(set(pair)))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return tuple(map(int, listed[1].split(",")))
    if iota := re.search(rf"replica_groups=\[\d+,(\d+)\]<={IOTA}", line):
        return _transposed(iota[2], iota[3])[: int(iota[1])]
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(" + IOTA + r"\))? \{([^}]*)\}", line):
        return _along(mesh[1], mesh[4], _transposed(mesh[2], mesh[3]) if mesh[2] else None)
    return tuple(range(devices))


def _transposed(shape: str, axes: str | None) -> tuple[int, ...]:
    """`arange(prod(shape)).reshape(shape).transpose(axes)`, flattened, of `"32,8,4"` and `"1,0,2"`."""
    sizes = _sizes(shape)
    order = _sizes(axes) if axes else range(len(sizes))
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    ranges = (range(0, sizes[axis] * strides[axis], strides[axis]) for axis in order)
    return tuple(sum(parts) for parts in itertools.product(*ranges))


def _along(axes: str, chosen: str, ids: Sequence[int] | None) -> tuple[int, ...]:
    """Return the devices of `mesh[axes] {chosen}` with index 0 on the other axes; `'a':(before)size` is a part of an
    axis.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    strides = {name: math.prod(list(sizes.values())[i + 1 :]) for i, name in enumerate(sizes)}
    ranges = []
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        size = int(part or sizes[name])
        stride = strides[name] * (sizes[name] // (int(before) * size) if part else 1)
        ranges.append(range(0, size * stride, stride))
    index = [sum(parts) for parts in itertools.product(*ranges)]
    return tuple(index if ids is None else (ids[i] for i in index))
