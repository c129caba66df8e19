"""A long call that survives its car: it saves where it is, and goes on from there on the next one.

While it runs, drive its car away: ``fleet cars`` names it, ``fleet car drive car-1`` drives it.
"""

import sys

import fleet


@fleet.function(timeout=600.0)
def count_primes(limit: int) -> tuple[int, list[str]]:
    """How many primes are below ``limit``, and which cars did the counting."""
    here = fleet.current()
    first, found, cars = here.resume(default=(2, 0, []))
    if here.car not in cars:
        cars = [*cars, here.car]
    for number in range(first, limit):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            found += 1
        if number % 10_000 == 0:
            # Cheap and often: what is not saved is computed again after a departure.
            here.checkpoint((number + 1, found, cars))
            print(f"{found} primes up to {number}")
    return found, cars


if __name__ == "__main__":
    fleet.enable_output()
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    found, cars = count_primes.remote(limit)
    print(f"{found} primes below {limit}, counted on {len(cars)} car(s)")
