"""One function over many inputs: ``map`` is lazy in what it reads, bounded in flight, and keeps the order."""

import fleet


@fleet.function
def collatz_steps(start: int) -> int:
    """How many steps of the 3n + 1 rule lead from ``start`` to 1."""
    steps = 0
    while start != 1:
        start = start // 2 if start % 2 == 0 else 3 * start + 1
        steps += 1
    return steps


@fleet.function
def divide(numerator: float, denominator: float) -> float:
    return numerator / denominator


if __name__ == "__main__":
    steps = list(collatz_steps.map(range(1, 2001)))
    longest = max(range(len(steps)), key=steps.__getitem__)
    print(f"of 2000 numbers, {longest + 1} takes the most steps: {steps[longest]}")

    # Two inputs are zipped as in the builtin; errors can be values, so that one bad input doesn't end the map.
    for result in divide.map([1.0, 2.0, 3.0], [2.0, 0.0, 4.0], return_exceptions=True):
        print(result if isinstance(result, float) else f"{type(result).__name__}: {result}")
