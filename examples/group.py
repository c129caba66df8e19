"""Hand work over and come back for it: ``spawn`` gives a Call, ``spawn_map`` a CallGroup, both found again by id."""

import fleet


@fleet.function
def letters(text: str) -> int:
    """How many letters ``text`` has."""
    return sum(character.isalpha() for character in text)


if __name__ == "__main__":
    call = letters.spawn("a parked car is a computer")
    print(f"one call: {call.result(timeout=60)} letters, {call.status()}")

    group = letters.spawn_map(["plug in", "park", "compute", "drive away"])
    # Any other process may do this, as long as the results are kept (result_ttl).
    again = fleet.CallGroup.from_id(group.id)
    print(f"a group of four: {list(again.results())}")
