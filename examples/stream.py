"""Items as they are found: a generator on a car, taken one by one. Leaving the loop ends it there, too."""

from collections.abc import Iterator
from itertools import count

import fleet


@fleet.function
def twin_primes() -> Iterator[tuple[int, int]]:
    """Pairs of primes two apart, without end."""
    before = 2
    for number in count(3, 2):
        if all(number % divisor for divisor in range(3, int(number**0.5) + 1, 2)):
            if number - before == 2:
                yield before, number
            before = number


if __name__ == "__main__":
    for smaller, larger in twin_primes.remote_gen():
        print(f"{smaller} and {larger}")
        if larger > 100:
            break
