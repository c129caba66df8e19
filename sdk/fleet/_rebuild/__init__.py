"""The sandbox's end of ``fleet._portable``: makes functions and classes again. Standard library only: baked into the guest.

Pickles of clients name these modules and functions: what is here stays, under its name, for older clients.
"""
