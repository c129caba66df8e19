"""A script as it is run by hand: its top level does what no car could, and none of it runs on one."""

import argparse
import os
import pathlib
import subprocess
import sys
import threading

from tests.conformance.case import case

HERE = pathlib.Path(__file__).parent
LINES = (HERE / "script.py").read_text().splitlines()
WORD = subprocess.run(
    [sys.executable, "-c", "print('from a child')"], capture_output=True, text=True, check=True
).stdout
OPTIONS = argparse.ArgumentParser().parse_args([])
OPTIONS.level = 3
RUNS = []
os.environ["CONFORMANCE_SCRIPT"] = "set here"
threads = [threading.Thread(target=RUNS.append, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
    thread.join()


@case("a constant that the script read from its own file")
def first_line():
    return LINES[0][:11], len(LINES) > 20


@case("a constant that another process made")
def word():
    return WORD.strip()


@case("the options of a command line")
def options():
    return vars(OPTIONS), OPTIONS.level + 1


@case("a list that threads of the script filled")
def runs():
    return sorted(RUNS)


@case("a path of the client's machine, as a value")
def path():
    return HERE.name, (HERE / "script.py").suffix


@case("a name of the script's guard")
def guarded():
    return GUARDED


if __name__ == "__main__":
    GUARDED = "behind the guard"
