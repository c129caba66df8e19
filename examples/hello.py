"""Ten lines: a function that runs on a parked car. Start ``fleet dev``, then ``python examples/hello.py``."""

import fleet


@fleet.function
def greet(name: str) -> str:
    return f"Hello {name}, from {fleet.current().car}"


if __name__ == "__main__":
    print(greet.remote("Ada"))
