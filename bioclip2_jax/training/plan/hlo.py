"""What a compiled program moves between devices and reserves on them, read from its dumps."""

import collections
import math
import re
from collections.abc import Iterator

_WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8, "f8e4m3": 1, "f8e5m2": 1}
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_OWN = ("u32", "")  # shape of a number
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_OPERATION = re.compile(rf" ({'|'.join(_KINDS)})(-start)?\(")


def temporary_bytes(text: str) -> int | None:
    """What a program reserves in a device's main memory beside its arguments and results.

    The statistics that a compiled program offers do not always say this: those of libtpu 0.0.42
    count buffers that share a place as often as they do.

    Args:
      text: the compiler's dump of its buffer assignment.

    Returns:
      Bytes; None if it names no such buffer.
    """
    sizes = re.findall(r"^allocation \d+: size (\d+), preallocated-temp", text, re.M)
    return sum(map(int, sizes)) if sizes else None


def collective_bytes(text: str) -> dict[str, float]:
    """Bytes that each device receives in one run of the program, by kind of collective.

    Ring algorithms are assumed: of n devices, a gather or scatter of s bytes moves s (n - 1) / n,
    a sum of s bytes twice that. Every instruction counts, a combined one with all of its arrays,
    and what stands in a loop as often as the loop runs.

    Args:
      text: optimised HLO, as the compiler dumps it.
    """
    bodies, everyone = _computations(text), _devices(text)
    moved: dict[str, float] = collections.defaultdict(float)
    for name, times in _multiplicity(bodies).items():
        for kind, received in _collectives(name, bodies, everyone):
            moved[kind] += times * received
    return dict(moved)


def _collectives(
    name: str, bodies: dict[str, list[str]], everyone: int
) -> Iterator[tuple[str, float]]:
    """Kind and bytes of the collectives of a computation, in one run of it."""
    # A collective that runs beside other work is written out in several fusions, of which each
    # takes what the one before it has made: instruction → what it holds of this kind.
    stages: dict[str, set] = {}
    for line in bodies[name]:
        named = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line)
        operands = re.findall(r"%([\w.\-]+)", line.split("metadata=")[0])[1:]
        before = set().union(*(stages.get(operand, ()) for operand in operands))
        own, within = set(), _of_line(line, bodies)
        for one in within:
            collective = _OPERATION.search(one)
            if not collective:
                continue
            shapes = one[: collective.start()].split(" = ", 1)[1]
            key = collective[1], shapes, *re.findall(r'op_name="([^"]*)"', one)[:1]
            own |= {key} if one is not line else set()
            if key in before and one is not line:
                continue
            # A sum of which each device takes its share at once.
            scattered = collective[1] == "all-reduce" and "calls=%all-reduce-scatter" in line
            kind = "reduce-scatter" if scattered else collective[1]
            received = _received(collective, shapes, _group_size(one, everyone))
            yield kind, received / (2 if scattered else 1)
        if named and (own or re.search(r" (get-tuple-element|bitcast|copy|tuple)\(", line)):
            stages[named[1]] = own or before


def _of_line(line: str, bodies: dict[str, list[str]]) -> list[str]:
    """An instruction, and those of what it calls; the end of one that was started has none."""
    lines = [line]
    if not re.search(r" (while|conditional|async-update|async-done)\(", line):
        for called in _CALLED.findall(line):
            lines += _with_fused(called, bodies) if called in bodies else []
    return lines


def _received(collective: re.Match, shapes: str, count: int) -> float:
    kind, started = collective[1], collective[2]
    # After the arrays, a start may list numbers of its own.
    sizes = [_size(*shape) for shape in _SHAPE.findall(shapes) if not started or shape != _OWN]
    if started and kind != "all-reduce":
        sizes = sizes[len(sizes) // 2 :]  # a start also lists its inputs
    size = sum(sizes)
    if kind == "reduce-scatter":
        size *= count  # the result is one share
    share = 1 if kind == "collective-permute" else (count - 1) / count
    return size * share * (2 if kind == "all-reduce" else 1)


def _size(dtype: str, dimensions: str) -> int:
    width = _WIDTHS.get(dtype) or int(re.findall(r"\d+", dtype)[0]) // 8 or 1
    for dimension in filter(None, dimensions.split(",")):
        width *= int(dimension)
    return width


def _devices(text: str) -> int:
    """All that run the program, as its head says."""
    head = text[: text.find("\n")]
    return math.prod(map(int, re.findall(r"(?:num_partitions|replica_count)=(\d+)", head)))


def _group_size(line: str, everyone: int) -> int:
    """Devices that take part together, in any of the notations of `replica_groups`."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return listed[1].count(",") + 1
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if iota:
        return int(iota[2])
    named = re.search(r"replica_groups=(?:@?\w+)?\[([^\]]*)\] ?\{([^}]*)\}", line)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        count = 1
        for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2]):
            count *= int(part or sizes[axis])
        return count
    return everyone  # of no groups, or an empty list of them


def _computations(text: str) -> dict[str, list[str]]:
    """Name → lines; the entry is under ''."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if opened:
            lines = bodies.setdefault("" if opened[1] else opened[2], [])
        elif " = " in line:
            lines.append(line)
    return bodies


def _with_fused(name: str, bodies: dict[str, list[str]]) -> list[str]:
    return [inner for line in bodies[name] for inner in _of_line(line, bodies)]


def _multiplicity(bodies: dict[str, list[str]]) -> dict[str, int]:
    """How often the entry and each body of a loop run."""
    times: dict[str, int] = collections.defaultdict(int)

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in _with_fused(name, bodies):
            if " while(" in line:
                visit(_named("body", line), count * _trips(line, bodies))

    visit("", 1)
    return times


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """The compiler's own count, or else the only constant that the loop's condition compares to."""
    counted = re.search(r'known_trip_count"?:?\s*\{"?n"?:"?(\d+)', line)
    if counted:
        return int(counted[1])
    condition = "\n".join(_with_fused(_named("condition", line), bodies))
    return max(map(int, re.findall(r"constant\((\d+)\)", condition)), default=1)


def _named(part: str, line: str) -> str:
    """The computation that a loop takes as its body or condition."""
    return re.findall(rf"{part}=%?([\w.\-]+)", line)[0]
