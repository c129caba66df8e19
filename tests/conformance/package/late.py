"""Imported only when it is needed."""

NAME = "late"
